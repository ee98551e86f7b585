//! Descriptions of what the golden fixtures hold, and of what is left of them when they are damaged.

use bytes::Bytes;
use proptest::prelude::*;

use super::describe::{Content, Said, describe};
use super::text::text;
use super::{Kind, Request, command, session_id};
use crate::base::SessionId;
use crate::config::{Loaded, Settings};

fn fixture(name: &str) -> Bytes {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_none_or(|extension| extension != "hex") {
        return bytes.into();
    }
    let digits: Vec<u8> = bytes.into_iter().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect::<Vec<u8>>().into()
}

const FIXTURES: [&str; 7] = [
    "log/v1-segment.hex",
    "log/v1-checkpoint.hex",
    "log/v1-seal.hex",
    "metadata/metalog_v1.hex",
    "catalogue/v1.txt",
    "identity/v1-data-directory.txt",
    "identity/v2-object-store.txt",
];

#[test]
fn whole_objects_have_no_problems() {
    for name in FIXTURES {
        let object = fixture(name);
        let description = describe(name, &object, true);
        // The metalog's fixture holds keys that no cluster has.
        assert!(description.problems.is_empty(), "{name}: {:?}", description.problems);
        let shown = text(&description, true);
        assert!(shown.ends_with('\n') && !shown.contains("DAMAGED") && !shown.contains("unknown"), "{shown}");
        let json = serde_json::to_value(&description).unwrap();
        assert_eq!(json["bytes"], object.len());
    }
}

#[test]
fn a_segment_is_told_frame_by_frame() {
    let object = fixture("log/v1-segment.hex");
    let description = describe("a.seg", &object, true);
    let Content::Segment(segment) = &description.content else { panic!("{description:?}") };
    assert!(segment.has_footer && !segment.frames.is_empty());
    let records: usize = segment
        .frames
        .iter()
        .map(|frame| match &frame.entry {
            Said::Batch(batch) => batch.records.as_ref().unwrap().len(),
            _ => 0,
        })
        .sum();
    assert!(records > 0);
    let shown = text(&description, false);
    assert!(shown.contains("POSITION") && shown.contains("batch ") && shown.contains("  value "), "{shown}");
    // Under another's key it is as good as damaged.
    let key = crate::format::keys::segment(SessionId { broker_id: 77, epoch: 1 }, 3);
    let moved = describe(&key, &object, false);
    assert!(moved.problems[0].starts_with("it says that it is seq "), "{:?}", moved.problems);
}

#[test]
fn a_torn_segment_is_told_up_to_where_it_is_torn() {
    let object = fixture("log/v1-segment.hex");
    let whole = describe("a.seg", &object, false);
    let Content::Segment(whole) = &whole.content else { panic!() };
    let last = whole.frames.last().unwrap();
    let cut = object.slice(..last.position as usize + 10);
    let torn = describe("a.seg", &cut, false);
    let Content::Segment(left) = &torn.content else { panic!() };
    assert_eq!(left.frames.len(), whole.frames.len() - 1);
    assert!(torn.problems[0].contains("no footer"), "{:?}", torn.problems);
    assert_eq!(torn.notes, [format!("whole frames end at byte {}, 10 bytes follow", last.position)]);

    let mut flipped = object.to_vec();
    flipped[last.position as usize + 50] ^= 1;
    let damaged = describe("a.seg", &flipped.into(), false);
    assert!(damaged.problems[0].starts_with(&format!("at byte {}: ", last.position)), "{:?}", damaged.problems);
    assert!(text(&damaged, false).contains("\nDAMAGED     at byte "));
}

#[test]
fn metadata_values_are_told_in_words() {
    let fixtures = [
        ("cluster", "cluster_v2.json", "rebuilt from the bucket with epochs from 1000000042"),
        ("claims/1", "claim_v1.json", "broker id 1 is in use by process 77 of host-a"),
        ("brokers/1", "broker_v1.json", "broker 1 at 127.0.0.1:9092, session 1-00000000000000000042, zone zone-1"),
        ("controller", "controller_v1.json", "the controller is session 1-00000000000000000042"),
        ("topics/orders", "topic_v1.json", "3 partitions, made 2023-11-14T22:13:20.000Z, cleanup.policy=compact"),
        ("producer-ids", "producer_ids_v1.json", "are taken"),
        ("rebuild", "rebuild_v1.json", "is not finished"),
        ("sessions/1-00000000000000000042", "session_sealed_v1.json", "sealed at 17 on 2023-11-14T22:13:21.000Z"),
    ];
    for (key, file, words) in fixtures {
        let mut problems = Vec::new();
        let key = format!("/esker/esker/{key}");
        let stored = super::metadata::stored(&key, 7, 0, &fixture(&format!("metadata/{file}")), &mut problems);
        assert!(stored.words.contains(words), "{key}: {}", stored.words);
        assert!(problems.is_empty() && stored.value["v"].is_number());
        let damaged = super::metadata::stored(&key, 7, 0, b"{", &mut problems);
        assert!(damaged.words == "cannot be read" && problems.len() == 1);
    }
}

#[test]
fn what_was_typed_is_understood() {
    let typed = |arguments: &[&str]| {
        let matches = command().try_get_matches_from([&["inspect"], arguments].concat()).map_err(|e| e.to_string())?;
        Request::new(Loaded { settings: Settings::default(), warnings: Vec::new() }, &matches)
    };
    assert_eq!(typed(&["wal"]).unwrap().kind, Kind::Wal);
    let request = typed(&["segment", "x", "--json", "--records"]).unwrap();
    assert!(request.json && request.records && !request.runs);
    assert!(typed(&["segment"]).unwrap_err().contains("NAME"));
    assert!(typed(&["sediment", "x"]).unwrap_err().contains("possible values"));
    let short = SessionId { broker_id: 1, epoch: 42 };
    for text in ["1-42", "1-00000000000000000042", "1-42/"] {
        assert_eq!(session_id(text), Some(short));
    }
    assert_eq!(session_id("42"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever happened to the bytes, they are described, and a flipped bit of a checksummed format is noticed.
    #[test]
    fn damage_never_panics(
        which in 0..FIXTURES.len(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let whole = fixture(FIXTURES[which]);
        let mut bytes = whole.to_vec();
        for (at, bit) in &flips {
            bytes[at.index(whole.len())] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(whole.len()));
        }
        let intact = bytes == whole;
        let description = describe("object", &bytes.into(), true);
        let shown = text(&description, true);
        prop_assert!(serde_json::to_value(&description).is_ok());
        prop_assert_eq!(shown.contains("DAMAGED"), !description.problems.is_empty());
        prop_assert!(!intact || description.problems.is_empty());
        // A torn metadata file is normal; so are bytes of a prelude that mean nothing.
        if !intact && which < 2 {
            prop_assert!(!description.problems.is_empty(), "{}", shown);
        }
    }
}
