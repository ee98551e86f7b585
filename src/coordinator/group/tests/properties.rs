//! Invariants under any order of requests, time, commits and crashes.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use proptest::prelude::*;

use super::bench::{
    Bench, commit_request, gid, heartbeat_request, join_request, leave_request, static_join, sync_request,
};
use crate::config::GroupSettings;
use crate::coordinator::group::{Input, Reply};
use crate::coordinator::runtime::{Machine, ReplyTo};

const GROUPS: [&str; 2] = ["g", "h"];
const CLIENTS: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Commit(usize, i64),
    SimpleCommit(usize, i64),
    Fetch(usize),
    DeleteGroup(usize),
    TopicDeleted,
    Pass(u64),
    CommitOne,
    CommitAll,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS;
    let group = 0..GROUPS.len();
    let step = prop_oneof![
        8 => client.clone().prop_map(Step::Join),
        8 => client.clone().prop_map(Step::Sync),
        3 => client.clone().prop_map(Step::Heartbeat),
        2 => client.clone().prop_map(Step::Leave),
        4 => (client, 0..1000_i64).prop_map(|(client, offset)| Step::Commit(client, offset)),
        1 => (group.clone(), 0..1000_i64).prop_map(|(group, offset)| Step::SimpleCommit(group, offset)),
        2 => group.clone().prop_map(Step::Fetch),
        1 => group.prop_map(Step::DeleteGroup),
        1 => Just(Step::TopicDeleted),
        4 => prop_oneof![1..100_u64, 1_000..5_000_u64, 5_000..70_000_u64, Just(86_400_000_u64 * 8)].prop_map(Step::Pass),
        8 => Just(Step::CommitOne),
        4 => Just(Step::CommitAll),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..150)
}

/// A client as its broker sees it: it believes what it is told.
#[derive(Default, Clone)]
struct Client {
    member: String,
    generation: i32,
    leads: Vec<String>,
    joining: Option<ReplyTo>,
    syncing: Option<ReplyTo>,
}

struct World {
    bench: Bench,
    clients: Vec<Client>,
    /// What members were told to own: by group, generation and member.
    owned: HashMap<(usize, i32, String), Bytes>,
    generations: BTreeMap<usize, i32>,
    /// Every request that has not been answered.
    open: Vec<ReplyTo>,
}

fn group_of(client: usize) -> usize {
    usize::from(client >= 4)
}

impl World {
    fn new() -> Self {
        let settings = GroupSettings { initial_rebalance_delay_ms: 50, ..GroupSettings::default() };
        let mut bench = Bench::with(settings);
        bench.auto_commit = false;
        Self {
            bench,
            clients: vec![Client::default(); CLIENTS],
            owned: HashMap::new(),
            generations: BTreeMap::new(),
            open: Vec::new(),
        }
    }

    fn send(&mut self, input: Input) -> ReplyTo {
        let to = self.bench.send(input);
        self.open.push(to);
        to
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Join(client) => self.join(client),
            Step::Sync(client) => self.sync(client),
            Step::Heartbeat(client) => {
                let state = self.clients[client].clone();
                let group = GROUPS[group_of(client)];
                self.send(Input::Heartbeat(heartbeat_request(group, state.generation, &state.member)));
            }
            Step::Leave(client) => {
                let member = self.clients[client].member.clone();
                self.send(Input::Leave(leave_request(GROUPS[group_of(client)], &[(&member, None)])));
            }
            Step::Commit(client, offset) => {
                let state = self.clients[client].clone();
                let request = commit_request(GROUPS[group_of(client)], state.generation, &state.member, offset);
                self.send(Input::Commit { api_version: 9, request });
            }
            Step::SimpleCommit(group, offset) => {
                self.send(Input::Commit { api_version: 9, request: commit_request(GROUPS[group], -1, "", offset) });
            }
            Step::Fetch(group) => {
                let group = kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup::default()
                    .with_group_id(gid(GROUPS[group]))
                    .with_topics(None);
                self.send(Input::Fetch { group, require_stable: false });
            }
            Step::DeleteGroup(group) => {
                self.send(Input::DeleteGroups(vec![gid(GROUPS[group])]));
            }
            Step::TopicDeleted => {
                self.send(Input::TopicsDeleted(vec!["orders".into()]));
            }
            Step::Pass(ms) => self.bench.advance(ms),
            Step::CommitOne => {
                self.bench.commit_one();
            }
            Step::CommitAll => self.bench.commit_all(),
            Step::Restart => {
                self.bench.restart();
                self.open.clear();
                for client in &mut self.clients {
                    client.joining = None;
                    client.syncing = None;
                }
                // Generations that were not stored are forgotten, and so is what was owned in them.
                self.generations.clear();
                let stored: Vec<DescribedGroup> = self.describe();
                self.owned.retain(|(group, _, _), _| &*stored[*group].group_state == "Stable");
            }
        }
        self.read_replies();
        self.check();
    }

    fn join(&mut self, client: usize) {
        if self.clients[client].joining.is_some() {
            return;
        }
        let (group, member) = (GROUPS[group_of(client)], self.clients[client].member.clone());
        // Clients 0 and 1 are static.
        let request =
            if client < 2 { static_join(group, &member, &format!("i{client}")) } else { join_request(group, &member) };
        let input = self.bench.join_input(request);
        self.clients[client].joining = Some(self.send(input));
    }

    fn sync(&mut self, client: usize) {
        let state = self.clients[client].clone();
        if state.syncing.is_some() || state.generation == 0 {
            return;
        }
        // A different assignment each time, so that mixing two of them shows.
        let text: &'static str = Box::leak(format!("{}@{}", client, self.open.len()).into_boxed_str());
        let all: Vec<(&str, &'static str)> = state.leads.iter().map(|member| (member.as_str(), text)).collect();
        let request = sync_request(GROUPS[group_of(client)], state.generation, &state.member, &all);
        self.clients[client].syncing = Some(self.send(Input::Sync(request)));
    }

    fn read_replies(&mut self) {
        for (to, reply) in std::mem::take(&mut self.bench.replies) {
            assert!(self.open.contains(&to), "{to:?} was not asked");
            self.open.retain(|open| *open != to);
            match reply {
                Reply::Join(response) => {
                    let Some(client) = self.clients.iter().position(|client| client.joining == Some(to)) else {
                        continue;
                    };
                    let state = &mut self.clients[client];
                    state.joining = None;
                    match response.error_code {
                        0 => {
                            state.member = response.member_id.to_string();
                            state.generation = response.generation_id;
                            let newest = self.generations.entry(group_of(client)).or_default();
                            assert!(response.generation_id >= *newest, "a generation went back");
                            *newest = response.generation_id;
                            state.leads = response.members.iter().map(|member| member.member_id.to_string()).collect();
                        }
                        79 => state.member = response.member_id.to_string(),
                        25 | 82 => *state = Client::default(),
                        _ => {}
                    }
                }
                Reply::Sync(response) => {
                    let Some(client) = self.clients.iter().position(|client| client.syncing == Some(to)) else {
                        continue;
                    };
                    let state = &mut self.clients[client];
                    state.syncing = None;
                    if response.error_code == 0 {
                        let key = (group_of(client), state.generation, state.member.clone());
                        let before = self.owned.insert(key, response.assignment.clone());
                        assert!(
                            before.is_none_or(|before| before == response.assignment),
                            "a member owns two things in one generation"
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn describe(&mut self) -> Vec<DescribedGroup> {
        let ids = GROUPS.iter().map(|group| gid(group)).collect();
        let to = self.bench.send(Input::Describe(ids));
        match self.bench.reply(to) {
            Reply::Describe(groups) => groups,
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self) {
        // What is live is the fold of everything appended.
        let committed = self.bench.committed;
        self.bench.committed = self.bench.log.len();
        let replayed = self.bench.replayed();
        let again = self.bench.replayed();
        self.bench.committed = committed;
        assert_eq!(replayed.store(), self.bench.machine.store());
        assert_eq!(replayed.store(), again.store());
        // A group that is gone starts again from nothing.
        for (group, described) in self.describe().into_iter().enumerate() {
            if &*described.group_state == "Dead" {
                self.generations.remove(&group);
                self.owned.retain(|(owner, _, _), _| *owner != group);
            }
        }
    }

    /// With everything committed and time passing, every request is answered.
    fn come_to_rest(&mut self) {
        self.bench.auto_commit = true;
        self.bench.commit_all();
        for _ in 0..20 {
            self.bench.advance(60_000);
        }
        self.read_replies();
        assert!(self.open.is_empty(), "never answered: {:?}", self.open);
        for group in self.describe() {
            let state = &*group.group_state;
            assert!(["Dead", "Empty"].contains(&state), "{state} without a living member");
        }
        assert!(self.bench.machine.unload().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.come_to_rest();
    }

    #[test]
    fn a_snapshot_in_slices_with_appends_between_is_the_state(steps in steps(), slice_bytes in 1..400_usize) {
        let mut world = World::new();
        world.bench.auto_commit = true;
        for group in 0..20 {
            world.bench.commit(commit_request(&format!("s{group}"), -1, "", group));
        }
        let from = world.bench.log.len();
        let (slice, mut cursor) = world.bench.machine.snapshot(None, slice_bytes);
        world.bench.log.extend(slice);
        world.bench.committed = world.bench.log.len();
        for step in steps.iter().filter(|step| !matches!(step, Step::Restart)) {
            let Some(after) = cursor.take() else { break };
            world.run(step);
            let (slice, next) = world.bench.machine.snapshot(Some(&after), slice_bytes);
            world.bench.log.extend(slice);
            world.bench.committed = world.bench.log.len();
            cursor = next;
        }
        while let Some(after) = cursor {
            let (slice, next) = world.bench.machine.snapshot(Some(&after), slice_bytes);
            world.bench.log.extend(slice);
            cursor = next;
        }
        world.bench.log.drain(..from);
        world.bench.committed = world.bench.log.len();
        let replayed = world.bench.replayed();
        prop_assert_eq!(replayed.store(), world.bench.machine.store());
    }
}
