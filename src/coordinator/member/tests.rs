//! A member against a coordinator that says what the test wants.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{JoinGroupResponse, OffsetCommitRequest, OffsetCommitResponse, SyncGroupResponse};
use kafka_protocol::protocol::StrBytes;
use proptest::prelude::*;

use super::machine::{MAX_COMMITS, RETRY_PAUSE_MS};
use super::protocol::{Assignment, assigned, assignment, subscription, topics_of};
use super::range::{Subscriber, range};
use super::{Ask, Effect, Input, Member, Membership, Position, Told, Trouble};

const SESSION_MS: u64 = 9_000;
const RELEASE_MS: u64 = 5_000;

fn s(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn of(topics: &[&str]) -> Membership {
    Membership {
        group: "g".to_owned(),
        topics: topics.iter().map(ToString::to_string).collect(),
        instance_id: None,
        session_timeout_ms: SESSION_MS,
        release_timeout_ms: RELEASE_MS,
    }
}

fn position(partition: i32, offset: i64) -> Position {
    Position { topic: "t".to_owned(), partition, offset, metadata: String::new() }
}

/// What the member asked last, by kind.
#[derive(Default)]
struct Asked {
    join: Option<(Ask, String)>,
    sync: Option<(Ask, BTreeMap<String, Assignment>)>,
    beat: Option<Ask>,
    position: Option<(Ask, Assignment)>,
    commit: Option<(Ask, OffsetCommitRequest)>,
}

/// A member, its time, and what it did.
struct Bench {
    member: Member,
    now_ms: u64,
    partitions: BTreeMap<String, i32>,
    asked: Asked,
    seen: Vec<String>,
}

impl Bench {
    fn new(of: Membership) -> Self {
        let partitions = BTreeMap::from([("t".to_owned(), 4)]);
        Self { member: Member::new(of), now_ms: 1_000, partitions, asked: Asked::default(), seen: Vec::new() }
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let partitions = |topic: &str| self.partitions.get(topic).copied();
        let effects = self.member.step(self.now_ms, input, &partitions);
        for effect in &effects {
            self.note(effect);
        }
        effects
    }

    fn note(&mut self, effect: &Effect) {
        let line = match effect {
            Effect::Join(ask, request) => {
                self.asked.join = Some((*ask, request.member_id.to_string()));
                format!("join as '{}'", &*request.member_id)
            }
            Effect::Sync(ask, request) => {
                let dealt = request.assignments.iter();
                let dealt = dealt.map(|one| (one.member_id.to_string(), assigned(&one.assignment).unwrap())).collect();
                self.asked.sync = Some((*ask, dealt));
                format!("sync {} for {}", request.generation_id, request.assignments.len())
            }
            Effect::Beat(ask, _) => {
                self.asked.beat = Some(*ask);
                "beat".to_owned()
            }
            Effect::Position(ask, of) => {
                self.asked.position = Some((*ask, of.clone()));
                format!("position of {of:?}")
            }
            Effect::Commit(ask, request) => {
                self.asked.commit = Some((*ask, request.clone()));
                format!("commit in {}", request.generation_id_or_member_epoch)
            }
            Effect::Leave(request) => format!("leave as '{}'", &*request.members[0].member_id),
            Effect::Read(positions) => format!("read {}", positions.len()),
            Effect::Stop => "stop".to_owned(),
            Effect::Tell(Told::Assigned { generation, partitions, .. }) => {
                format!("assigned {} in {generation}", partitions.len())
            }
            Effect::Tell(Told::Revoking) => "revoking".to_owned(),
            Effect::Tell(Told::Committed { id, failed }) => format!("committed {id}, not {}", failed.len()),
            Effect::End(how) => format!("end {how:?}"),
        };
        self.seen.push(line);
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.seen)
    }

    fn tick(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.step(Input::Tick);
    }

    fn joined(&mut self, generation: i32, leader: &str, members: &[(&str, &[&str])]) {
        let (ask, _) = self.asked.join.take().unwrap();
        let members = members.iter().map(|(id, topics)| {
            let metadata = subscription(topics.iter().copied());
            JoinGroupResponseMember::default().with_member_id(s(id)).with_metadata(metadata)
        });
        let answer = JoinGroupResponse::default()
            .with_member_id(s("me"))
            .with_generation_id(generation)
            .with_leader(s(leader))
            .with_members(members.collect());
        self.step(Input::Joined(ask, Ok(answer)));
    }

    fn refuse_join(&mut self, error: Kafka, member_id: &str) {
        let (ask, _) = self.asked.join.take().unwrap();
        let answer = JoinGroupResponse::default().with_error_code(error.code()).with_member_id(s(member_id));
        self.step(Input::Joined(ask, Ok(answer)));
    }

    fn synced(&mut self, partitions: &[i32]) {
        let (ask, _) = self.asked.sync.take().unwrap();
        let of = Assignment::from([("t".to_owned(), partitions.to_vec())]);
        self.step(Input::Synced(ask, Ok(SyncGroupResponse::default().with_assignment(assignment(&of)))));
    }

    fn positioned(&mut self) {
        let (ask, of) = self.asked.position.take().unwrap();
        let positions = of.values().flatten().map(|partition| position(*partition, 7)).collect();
        self.step(Input::Positioned(ask, Ok(positions)));
    }

    fn beaten(&mut self, code: i16) {
        let ask = self.asked.beat.take().unwrap();
        self.step(Input::Beaten(ask, Ok(code)));
    }

    fn committed(&mut self, code: i16) {
        let (ask, request) = self.asked.commit.take().unwrap();
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|one| {
                OffsetCommitResponsePartition::default().with_partition_index(one.partition_index).with_error_code(code)
            });
            OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
        });
        self.step(Input::Committed(ask, Ok(OffsetCommitResponse::default().with_topics(topics.collect()))));
    }

    /// Joined alone, reading four partitions.
    fn stable() -> Self {
        let mut bench = Self::new(of(&["t"]));
        bench.tick(0);
        bench.refuse_join(Kafka::MemberIdRequired, "me");
        bench.joined(1, "me", &[("me", &["t"])]);
        bench.synced(&[0, 1, 2, 3]);
        bench.positioned();
        bench
    }

    fn commit(&mut self, id: u64) {
        self.step(Input::Commit { id, offsets: vec![position(0, 8), position(1, 9)] });
    }
}

#[test]
fn a_member_joins_reads_and_leaves() {
    let mut bench = Bench::stable();
    let joining = [
        "join as ''",
        "join as 'me'",
        "sync 1 for 1",
        r#"position of {"t": [0, 1, 2, 3]}"#,
        "assigned 4 in 1",
        "read 4",
    ];
    assert_eq!(bench.take(), joining);
    bench.tick(SESSION_MS / 3);
    bench.beaten(0);
    bench.commit(5);
    bench.committed(0);
    bench.step(Input::Closed);
    bench.step(Input::Left);
    assert_eq!(bench.take(), ["beat", "commit in 1", "committed 5, not 0", "stop", "leave as 'me'", "end Ok(())"]);
    bench.tick(100_000);
    bench.commit(6);
    assert_eq!(bench.take(), ["committed 6, not 2"], "nothing more, but an answer");
    assert_eq!(bench.member.due_ms(), None);
}

#[test]
fn a_rebalance_waits_for_the_client_and_its_commits() {
    let mut bench = Bench::stable();
    bench.take();
    bench.tick(SESSION_MS / 3);
    bench.beaten(Kafka::RebalanceInProgress.code());
    bench.commit(1);
    bench.step(Input::Released);
    assert_eq!(bench.take(), ["beat", "stop", "revoking", "commit in 1"], "the commit is on its way");
    bench.committed(0);
    assert_eq!(bench.take(), ["committed 1, not 0", "join as 'me'"]);
    bench.commit(2);
    assert_eq!(bench.take(), ["committed 2, not 2"], "too late");
    bench.joined(2, "other", &[]);
    bench.synced(&[3]);
    bench.positioned();
    assert_eq!(bench.take(), ["sync 2 for 0", r#"position of {"t": [3]}"#, "assigned 1 in 2", "read 1"]);

    // A client that does not answer is waited for so long, and its answer does not count for the next time.
    bench.tick(SESSION_MS / 3);
    bench.beaten(Kafka::RebalanceInProgress.code());
    bench.take();
    bench.tick(RELEASE_MS - 1);
    bench.beaten(Kafka::RebalanceInProgress.code());
    assert_eq!(bench.take(), ["beat"]);
    bench.tick(1);
    assert_eq!(bench.take(), ["join as 'me'"]);
    bench.joined(3, "other", &[]);
    bench.synced(&[3]);
    bench.positioned();
    bench.tick(SESSION_MS / 3);
    bench.beaten(Kafka::RebalanceInProgress.code());
    bench.take();
    bench.commit(3);
    assert_eq!(bench.take(), ["committed 3, not 2"], "it speaks of partitions of generation 2, which may be another's");
    bench.step(Input::Released);
    assert_eq!(bench.take(), [""; 0], "that was the answer owed from before");
    bench.step(Input::Released);
    assert_eq!(bench.take(), ["join as 'me'"]);
}

#[test]
fn a_leader_deals_for_all_and_again_when_topics_grow() {
    let mut bench = Bench::new(of(&["t", "later"]));
    bench.tick(0);
    bench.joined(1, "me", &[("me", &["t", "later"]), ("kafka", &["t"])]);
    let (_, dealt) = bench.asked.sync.as_ref().unwrap();
    let of = |member: &str| dealt[member].clone();
    assert_eq!(of("kafka"), Assignment::from([("t".to_owned(), vec![0, 1])]));
    assert_eq!(of("me"), Assignment::from([("t".to_owned(), vec![2, 3])]));
    bench.synced(&[2, 3]);
    bench.positioned();
    bench.take();
    bench.tick(10);
    assert_eq!(bench.take(), [""; 0]);
    bench.partitions.insert("later".to_owned(), 1);
    bench.tick(10);
    bench.step(Input::Released);
    assert_eq!(bench.take(), ["stop", "revoking", "join as 'me'"]);
    bench.joined(2, "me", &[("me", &["t", "later"]), ("kafka", &["t"])]);
    assert_eq!(bench.asked.sync.as_ref().unwrap().1["me"]["later"], [0]);

    // A follower leaves that to the leader.
    let mut bench = Bench::new(self::of(&["t"]));
    bench.tick(0);
    bench.joined(1, "other", &[]);
    bench.synced(&[0]);
    bench.positioned();
    bench.take();
    bench.partitions.insert("t".to_owned(), 9);
    bench.tick(10);
    assert_eq!(bench.take(), [""; 0]);
}

#[test]
fn a_member_that_the_group_forgot_joins_again_as_a_new_one() {
    let mut bench = Bench::stable();
    bench.take();
    bench.tick(SESSION_MS / 3);
    bench.beaten(Kafka::UnknownMemberId.code());
    bench.commit(1);
    bench.step(Input::Released);
    assert_eq!(bench.take(), ["beat", "stop", "revoking", "committed 1, not 2", "join as ''"]);

    // By a commit.
    let mut bench = Bench::stable();
    bench.take();
    bench.commit(1);
    bench.commit(2);
    bench.committed(Kafka::IllegalGeneration.code());
    bench.step(Input::Released);
    let lost = ["commit in 1", "committed 1, not 2", "committed 2, not 2", "stop", "revoking", "join as 'me'"];
    assert_eq!(bench.take(), lost);
    bench.refuse_join(Kafka::UnknownMemberId, "");
    bench.tick(RETRY_PAUSE_MS);
    assert_eq!(bench.take(), ["join as ''"]);

    // A coordinator that does not answer.
    let mut bench = Bench::stable();
    bench.take();
    bench.tick(SESSION_MS / 3);
    bench.tick(SESSION_MS / 3 * 2);
    bench.step(Input::Released);
    assert_eq!(bench.take(), ["beat", "stop", "revoking", "join as 'me'"]);
    let (ask, _) = bench.asked.join.take().unwrap();
    bench.step(Input::Joined(ask, Err(Trouble::Passing)));
    bench.tick(RETRY_PAUSE_MS);
    assert_eq!(bench.take(), ["join as 'me'"]);
}

#[test]
fn a_rebalance_before_reading_began_is_not_told() {
    let mut bench = Bench::new(of(&["t"]));
    bench.tick(0);
    bench.joined(1, "other", &[]);
    bench.synced(&[0]);
    bench.take();
    let old = bench.asked.position.take().unwrap().0;
    bench.tick(SESSION_MS / 3);
    bench.beaten(Kafka::RebalanceInProgress.code());
    assert_eq!(bench.take(), ["beat", "join as ''"].map(|line| line.replace("''", "'me'")));
    bench.step(Input::Positioned(old, Ok(vec![position(0, 1)])));
    assert_eq!(bench.take(), [""; 0], "an old answer does not count");
    bench.joined(2, "other", &[]);
    let ask = bench.asked.sync.take().unwrap().0;
    let again = SyncGroupResponse::default().with_error_code(Kafka::RebalanceInProgress.code());
    bench.step(Input::Synced(ask, Ok(again)));
    assert_eq!(bench.take(), ["sync 2 for 0", "join as 'me'"]);
}

#[test]
fn what_cannot_be_helped_ends_it() {
    for error in [Kafka::InconsistentGroupProtocol, Kafka::FencedInstanceId, Kafka::GroupMaxSizeReached] {
        let mut bench = Bench::new(of(&["t"]));
        bench.tick(0);
        bench.refuse_join(error, "");
        assert_eq!(bench.take()[1..], [format!("end Err({error:?})")]);
    }
    let mut bench = Bench::stable();
    bench.take();
    bench.commit(1);
    bench.tick(SESSION_MS / 3);
    bench.beaten(Kafka::FencedInstanceId.code());
    assert_eq!(bench.take()[2..], ["stop", "committed 1, not 2", "end Err(FencedInstanceId)"]);
    // Bytes that are no assignment.
    let mut bench = Bench::new(of(&["t"]));
    bench.tick(0);
    bench.joined(1, "other", &[]);
    let ask = bench.asked.sync.take().unwrap().0;
    let wrong = SyncGroupResponse::default().with_assignment(Bytes::from_static(&[0, 0, 0, 0]));
    bench.step(Input::Synced(ask, Ok(wrong)));
    assert_eq!(bench.take()[2..], ["end Err(InconsistentGroupProtocol)"]);
}

#[test]
fn a_member_that_has_read_all_waits_for_its_last_commits() {
    let mut bench = Bench::stable();
    bench.take();
    bench.step(Input::AllRead);
    bench.commit(1);
    bench.step(Input::Closed);
    assert_eq!(bench.take(), ["commit in 1", "stop"]);
    bench.committed(0);
    assert_eq!(bench.take(), ["committed 1, not 0", "leave as 'me'"]);
    let mut bench = Bench::stable();
    bench.take();
    bench.step(Input::AllRead);
    bench.tick(RELEASE_MS);
    assert_eq!(bench.take(), ["stop", "leave as 'me'"]);
    // One that comes back under its instance id does not leave.
    let mut bench = Bench::new(Membership { instance_id: Some("i".to_owned()), ..of(&["t"]) });
    bench.tick(0);
    bench.joined(1, "other", &[]);
    bench.step(Input::Closed);
    assert_eq!(bench.take()[2..], ["end Ok(())"]);
}

#[test]
fn commits_that_wait_are_bounded() {
    let mut bench = Bench::stable();
    bench.take();
    for id in 0..=MAX_COMMITS as u64 {
        bench.commit(id);
    }
    assert_eq!(bench.take(), ["commit in 1".to_owned(), format!("committed {MAX_COMMITS}, not 2")]);
    for id in 0..MAX_COMMITS {
        bench.committed(0);
        assert_eq!(bench.take()[0], format!("committed {id}, not 0"));
    }
}

#[test]
fn bytes_of_other_members_are_read_or_refused() {
    let of = Assignment::from([("a".to_owned(), vec![3, 1]), ("b".to_owned(), vec![])]);
    assert_eq!(assigned(&assignment(&of)), Some(of));
    assert_eq!(assigned(&[]), Some(Assignment::new()));
    let metadata = subscription(["a", "bc"].into_iter());
    assert_eq!(topics_of(&metadata), Some(vec!["a".to_owned(), "bc".to_owned()]));
    let mut newer = metadata.to_vec();
    newer[1] = 3;
    newer.extend([1, 2, 3]);
    assert_eq!(topics_of(&newer), Some(vec!["a".to_owned(), "bc".to_owned()]), "later versions only add");
    for cut in 0..metadata.len() - 4 {
        assert_eq!(topics_of(&metadata[..cut]), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = (assigned(&bytes), topics_of(&bytes));
    }

    #[test]
    fn every_partition_is_dealt_once_and_evenly(
        members in prop::collection::btree_map("[a-z]{1,3}", (any::<bool>(), prop::collection::vec(0_usize..4, 0..4)), 1..8),
        counts in prop::array::uniform4(prop::option::of(0_i32..20)),
    ) {
        let name = |topic: usize| format!("topic-{topic}");
        let members: Vec<Subscriber> = members
            .iter()
            .map(|(id, (fixed, topics))| Subscriber {
                member_id: id.clone(),
                instance_id: fixed.then(|| format!("i{id}")),
                topics: topics.iter().map(|topic| name(*topic)).collect(),
            })
            .collect();
        let partitions = |topic: &str| counts[topic.trim_start_matches("topic-").parse::<usize>().unwrap()];
        let dealt = range(&members, &partitions);
        prop_assert_eq!(dealt.len(), members.len());
        for (topic, count) in counts.iter().enumerate() {
            let wanting: Vec<_> = members.iter().filter(|member| member.topics.contains(&name(topic))).collect();
            let parts: Vec<Vec<i32>> = dealt.values().filter_map(|of| of.get(&name(topic)).cloned()).collect();
            let mut all: Vec<i32> = parts.concat();
            all.sort_unstable();
            let expected = if wanting.is_empty() { 0 } else { count.unwrap_or(0) };
            prop_assert_eq!(all, (0..expected).collect::<Vec<_>>());
            for part in &parts {
                prop_assert!(part.windows(2).all(|pair| pair[1] == pair[0] + 1));
                let share = expected as usize / wanting.len();
                prop_assert!(part.len() == share || part.len() == share + 1);
            }
            for (id, of) in &dealt {
                prop_assert!(!of.contains_key(&name(topic)) || wanting.iter().any(|member| member.member_id == *id));
            }
        }
    }

    /// Whatever comes in whatever order: the client's view stays consistent, and every commit is answered once.
    #[test]
    fn the_client_s_view_is_consistent(steps in prop::collection::vec((0_u8..16, 0_u64..4_000), 1..120)) {
        let mut bench = Bench::new(of(&["t"]));
        let (mut has, mut reads, mut ended, mut sent, mut generation) = (false, false, false, 0_u64, 0);
        let mut answered = Vec::new();
        for (what, by_ms) in steps {
            bench.now_ms += by_ms;
            let codes = [0, 0, 0, 25, 22, 27, 14, 82];
            let code = codes[(by_ms % 8) as usize];
            let input = match what {
                0 | 1 => bench.asked.join.take().map(|(ask, _)| {
                    generation += 1;
                    let leader = if by_ms % 3 == 0 { "me" } else { "other" };
                    let code = if code == 82 { 79 } else { code };
                    Input::Joined(ask, Ok(JoinGroupResponse::default()
                        .with_error_code(code).with_member_id(s("me")).with_leader(s(leader)).with_generation_id(generation)))
                }),
                2 | 3 => bench.asked.sync.take().map(|(ask, _)| {
                    let of = Assignment::from([("t".to_owned(), vec![0])]);
                    let code = if code == 82 { 0 } else { code };
                    Input::Synced(ask, Ok(SyncGroupResponse::default().with_error_code(code).with_assignment(assignment(&of))))
                }),
                4 | 5 => bench.asked.position.take().map(|(ask, _)| Input::Positioned(ask, Ok(vec![position(0, 1)]))),
                6 => bench.asked.position.take().map(|(ask, _)| Input::Positioned(ask, Err(Trouble::Passing))),
                7 => bench.asked.beat.take().map(|ask| Input::Beaten(ask, if code == 14 { Err(Trouble::Passing) } else { Ok(code) })),
                8 => bench.asked.commit.take().map(|(ask, _)| Input::Committed(ask, Err(Trouble::Passing))),
                9 => { bench.committed_if_asked(code); None }
                10 => { sent += 1; Some(Input::Commit { id: sent, offsets: vec![position(0, 1)] }) }
                11 => Some(Input::Released),
                12 if by_ms > 3_500 => Some(Input::Closed),
                13 if by_ms > 3_500 => Some(Input::AllRead),
                _ => Some(Input::Tick),
            };
            if let Some(input) = input {
                bench.step(input);
            }
            for line in bench.take() {
                prop_assert!(!ended || line.starts_with("committed"), "'{line}' after the end");
                match line.split(' ').next().unwrap() {
                    "assigned" => { prop_assert!(!has); has = true; }
                    "read" => { prop_assert!(has && !reads); reads = true; }
                    "stop" => { prop_assert!(reads); reads = false; }
                    "revoking" => { prop_assert!(has && !reads); has = false; }
                    "join" | "sync" | "position" => prop_assert!(!reads && !has),
                    "end" => { prop_assert!(!reads); ended = true; }
                    "committed" => answered.push(line.split([' ', ',']).nth(1).unwrap().parse::<u64>().unwrap()),
                    _ => {}
                }
            }
            // Nothing is due that has not happened, or a tick does it.
            if let Some(due_ms) = bench.member.due_ms().filter(|due| *due <= bench.now_ms) {
                bench.step(Input::Tick);
                let still = bench.member.due_ms().is_none_or(|due| due > due_ms);
                prop_assert!(still, "a tick at {} leaves what was due at {due_ms}", bench.now_ms);
                for line in bench.take() {
                    match line.split(' ').next().unwrap() {
                        "stop" => reads = false,
                        "revoking" => has = false,
                        "end" => ended = true,
                        "committed" => answered.push(line.split([' ', ',']).nth(1).unwrap().parse::<u64>().unwrap()),
                        _ => {}
                    }
                }
            }
        }
        bench.step(Input::Closed);
        bench.now_ms += 100_000;
        bench.step(Input::Tick);
        bench.step(Input::Left);
        for line in bench.take().iter().filter(|line| line.starts_with("committed")) {
            answered.push(line.split([' ', ',']).nth(1).unwrap().parse::<u64>().unwrap());
        }
        // Those that come too late are refused at once.
        answered.sort_unstable();
        prop_assert_eq!(answered, (1..=sent).collect::<Vec<_>>());
    }
}

impl Bench {
    fn committed_if_asked(&mut self, code: i16) {
        if self.asked.commit.is_some() {
            self.committed(code);
        }
    }
}
