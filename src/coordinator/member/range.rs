//! The "range" assignor: of each topic every member gets consecutive partitions, the first members one more where it does not
//! divide. As Kafka's clients do it (`RangeAssignor` without racks), so that it does not matter which member leads.

use std::collections::BTreeMap;

use super::protocol::Assignment;

/// A member of a group as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Its id.
    pub member_id: String,
    /// Kafka's `group.instance.id`.
    pub instance_id: Option<String>,
    /// What it wants.
    pub topics: Vec<String>,
}

/// What each member gets, by member id; `partitions` says how many a topic has, `None` for a topic that does not exist.
pub fn range(members: &[Subscriber], partitions: &dyn Fn(&str) -> Option<i32>) -> BTreeMap<String, Assignment> {
    let mut dealt: BTreeMap<String, Assignment> =
        members.iter().map(|member| (member.member_id.clone(), Assignment::new())).collect();
    let mut wanted: BTreeMap<&str, Vec<&Subscriber>> = BTreeMap::new();
    for member in members {
        for topic in &member.topics {
            let wanting = wanted.entry(topic).or_default();
            if !wanting.iter().any(|other| other.member_id == member.member_id) {
                wanting.push(member);
            }
        }
    }
    for (topic, mut wanting) in wanted {
        // Those with an instance id come first, so that they keep their places when they come back under another member id.
        wanting.sort_by_key(|member| (member.instance_id.is_none(), member.instance_id.as_deref(), &*member.member_id));
        let count = partitions(topic).unwrap_or(0).max(0);
        let among = wanting.len() as i32;
        let (each, extra) = (count / among, count % among);
        let mut first = 0;
        for (member, place) in wanting.into_iter().zip(0..) {
            let next = first + each + i32::from(place < extra);
            if next > first
                && let Some(assignment) = dealt.get_mut(&member.member_id)
            {
                assignment.insert(topic.to_owned(), (first..next).collect());
            }
            first = next;
        }
    }
    dealt
}
