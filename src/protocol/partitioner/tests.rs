//! The values of Kafka's own test (`UtilsTest.testMurmur2`).

use super::{murmur2, partition_of_key};

#[test]
fn hashes_are_kafka_s() {
    let known: [(&[u8], i32); 6] = [
        (b"21", -973_932_308),
        (b"foobar", -790_332_482),
        (b"a-little-bit-long-string", -985_981_536),
        (b"a-little-bit-longer-string", -1_486_304_829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        (b"abc", 479_470_107),
    ];
    for (key, hash) in known {
        assert_eq!(murmur2(key), hash.cast_unsigned(), "{}", String::from_utf8_lossy(key));
    }
}

#[test]
fn every_key_has_a_partition() {
    assert_eq!(partition_of_key(b"foobar", 6), (murmur2(b"foobar") - (1 << 31)) % 6, "the sign is cut off");
    assert_eq!(partition_of_key(b"", 1), 0);
    assert_eq!(partition_of_key(b"anything", 0), 0, "no partitions is one, rather than a panic");
}
