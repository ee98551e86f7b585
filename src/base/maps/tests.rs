use super::{HashSet, fix_order};

fn order() -> Vec<u32> {
    let set: HashSet<u32> = (0..100).collect();
    set.into_iter().collect()
}

#[test]
fn the_order_is_fixed_by_its_key() {
    let (first, other) = std::thread::spawn(|| {
        fix_order(1);
        let first = order();
        assert_eq!(first, order());
        fix_order(2);
        (first, order())
    })
    .join()
    .unwrap();
    assert_ne!(first, other);
    // Another thread's maps are not touched, and those of one process agree.
    assert_eq!(order(), order());
}
