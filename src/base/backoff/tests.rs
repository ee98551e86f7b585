use super::Backoff;
use crate::base::Rng;

#[test]
fn pauses_grow_and_stay_bounded() {
    let (backoff, rng) = (Backoff { first_ms: 10, most_ms: 300 }, Rng::seeded(1));
    for (failures, least, most) in
        [(0, 5, 10), (1, 5, 10), (2, 10, 20), (3, 20, 40), (6, 150, 300), (u32::MAX, 150, 300)]
    {
        for _ in 0..100 {
            let pause = backoff.pause(failures, &rng).as_millis();
            assert!((least..=most).contains(&pause), "{pause} ms after {failures} failures");
        }
    }
}
