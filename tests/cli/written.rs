//! A data directory with something in it.

use bytes::Bytes;
use esker::protocol::batch::build_batch;

use crate::harness::Home;
use crate::wire::Connection;

/// Runs a broker, writes `batches` batches of three records to each of two partitions of topic `orders`, and stops it.
pub fn orders(home: &Home, batches: usize) {
    let broker = home.broker(&["--flush-idle", "1ms"]);
    let mut connection = Connection::open(broker.doors.kafka).unwrap();
    assert_eq!(connection.create_topic("orders", 2).unwrap(), 0);
    for batch in 0..batches {
        for partition in 0..2 {
            let record = |record: usize| {
                let (key, value) = (format!("key-{partition}"), format!("value-{batch}-{record}"));
                (Some(Bytes::from(key)), Some(Bytes::from(value)))
            };
            let records: Vec<_> = (0..3).map(record).collect();
            connection.send_produce("orders", partition, -1, build_batch(&records, 1_700_000_000_000)).unwrap();
            let produced = connection.receive_produce().unwrap();
            assert_eq!((produced.error, produced.base_offset), (0, 3 * batch as i64));
        }
    }
    broker.stop();
}
