use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::PerIp;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_address_has_its_own_room() {
    let table = PerIp::new(2);
    let first = table.acquire(ip("10.0.0.1")).unwrap();
    let _second = table.acquire(ip("::ffff:10.0.0.1")).unwrap();
    assert!(table.acquire(ip("10.0.0.1")).is_none());
    let _other = table.acquire(ip("10.0.0.2")).unwrap();
    drop(first);
    assert!(table.acquire(ip("10.0.0.1")).is_some());
}

#[test]
fn zero_is_no_limit_and_remembers_nobody() {
    let table = PerIp::new(0);
    let permits: Vec<_> = (0..1000).map(|_| table.acquire(ip("::1")).unwrap()).collect();
    assert_eq!(table.addresses(), 0);
    drop(permits);
}

proptest! {
    #[test]
    fn counts_as_a_plain_list_does(limit in 1usize..4, steps in proptest::collection::vec((any::<bool>(), 0u8..4), 0..100)) {
        let table = PerIp::new(limit);
        let mut permits = HashMap::<u8, Vec<_>>::new();
        for (connects, host) in steps {
            let mine = permits.entry(host).or_default();
            if connects {
                let permit = table.acquire(IpAddr::from([127, 0, 0, host]));
                prop_assert_eq!(permit.is_some(), mine.len() < limit);
                mine.extend(permit);
            } else {
                mine.pop();
            }
            prop_assert_eq!(table.addresses(), permits.values().filter(|mine| !mine.is_empty()).count());
        }
    }
}
