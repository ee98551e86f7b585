//! The storage protocol, checked exhaustively within small bounds (ADR 0004).
//!
//! Each `holds` test explores every order in which its bounded world can go on; each `finds` test breaks one rule on
//! purpose and expects the check to notice, which shows that it can.

mod check;
mod collecting;
mod rules;
mod world;

use check::Protocol;
use rules::{Budget, Flaw, Rules};
use stateright::{Checker, HasDiscoveries, Model};

const INVARIANTS: &str = "the invariants hold";
const PROGRESS: &str = "what was acknowledged outlives its leader";

fn base() -> Rules {
    Rules {
        sessions: 2,
        partitions: 1,
        acquired: true,
        batches_per_segment: 1,
        uploads: 2,
        slow_images: false,
        slow_sealer: false,
        slow_controller: false,
        torn_files: false,
        lists_first: true,
        budget: Budget::default(),
        flaw: Flaw::None,
    }
}

/// Sessions die or are taken for dead one after the other, before and after they have acquired.
fn takeover() -> Rules {
    let budget = Budget { batches: 2, crashes: 1, suspicions: 1, ..Budget::default() };
    Rules { sessions: 3, acquired: false, budget, ..base() }
}

/// A session that does not know yet that it was replaced goes on as its old image says.
fn old_images() -> Rules {
    let budget = Budget { batches: 2, suspicions: 2, restarts: 1, ..Budget::default() };
    Rules { slow_images: true, uploads: 1, budget, ..base() }
}

/// Controllers are stopped in mid-decision and replaced.
fn controllers() -> Rules {
    let budget = Budget { batches: 1, suspicions: 2, elections: 1, ..Budget::default() };
    Rules { sessions: 3, slow_controller: true, budget, ..base() }
}

/// A partition goes to another session and comes back, under images that are old, while sessions are taken for dead.
fn handoff() -> Rules {
    let budget = Budget { batches: 1, suspicions: 1, moves: 2, ..Budget::default() };
    Rules { slow_images: true, budget, ..base() }
}

/// ... and with crashes and checkpoints.
fn handoff_with_checkpoints() -> Rules {
    let budget = Budget { batches: 1, crashes: 1, moves: 2, checkpoints: 1, ..Budget::default() };
    Rules { budget, ..base() }
}

/// One of two partitions in a stream moves.
fn two_partitions() -> Rules {
    let budget = Budget { batches: 2, suspicions: 1, moves: 1, ..Budget::default() };
    Rules { partitions: 2, budget, ..base() }
}

/// A broker starts again with its disk, while others take it for dead.
fn restart() -> Rules {
    let budget = Budget { batches: 2, crashes: 1, suspicions: 1, restarts: 1, ..Budget::default() };
    Rules { batches_per_segment: 2, torn_files: true, budget, ..base() }
}

/// Marks are made while a partition moves.
fn collection() -> Rules {
    let budget = Budget { batches: 1, moves: 1, checkpoints: 2, marks: 2, ..Budget::default() };
    Rules { uploads: 1, budget, ..base() }
}

/// ... by a collector that lists last, as the broker's did once.
fn collection_listed_last() -> Rules {
    Rules { lists_first: false, ..collection() }
}

/// ... and comes back.
fn collection_there_and_back() -> Rules {
    let budget = Budget { moves: 2, marks: 1, ..collection().budget };
    Rules { budget, ..collection() }
}

/// Marks are made while sessions end and what they left behind is still read.
fn collection_of_the_dead() -> Rules {
    let budget = Budget { batches: 1, suspicions: 2, marks: 2, ..Budget::default() };
    Rules { sessions: 3, uploads: 1, budget, ..base() }
}

/// ... after a handoff.
fn collection_behind_a_handoff() -> Rules {
    let budget = Budget { suspicions: 1, moves: 1, marks: 1, batches: 1, ..Budget::default() };
    Rules { sessions: 3, uploads: 1, budget, ..base() }
}

/// A sealer is stopped while the stream goes on, is checkpointed and collected.
fn slow_sealer() -> Rules {
    let budget = Budget { batches: 1, suspicions: 1, checkpoints: 2, retentions: 1, marks: 2, ..Budget::default() };
    Rules { slow_sealer: true, uploads: 1, budget, ..base() }
}

fn check(rules: Rules, stop: HasDiscoveries) -> (Option<String>, bool, usize) {
    let model = Protocol(rules);
    let checker = model.clone().checker().threads(2).finish_when(stop).spawn_bfs().join();
    let states = checker.unique_state_count();
    let violation = checker.discovery(INVARIANTS).map(|path| {
        let reason = model.judge(path.last_state()).expect_err("a violation");
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("  {step:?}")).collect();
        format!("{reason}\n{}", steps.join("\n"))
    });
    (violation, checker.discovery(PROGRESS).is_some(), states)
}

fn holds(name: &str, rules: Rules) {
    let (violation, progress, states) = check(rules, HasDiscoveries::AnyFailures);
    println!("{name}: {states} states");
    assert_eq!(violation.as_deref(), None, "{name}: {}", violation.as_deref().unwrap_or_default());
    assert!(progress, "{name}: nothing acknowledged outlived its leader");
}

fn finds(flaw: Flaw, rules: Rules) {
    let (violation, _, states) = check(Rules { flaw, ..rules }, HasDiscoveries::AnyFailures);
    let violation = violation.unwrap_or_else(|| panic!("{flaw:?} was not noticed in {states} states"));
    println!("{flaw:?}: {violation}");
}

#[test]
fn takeover_holds() {
    holds("takeover", takeover());
}

#[test]
fn old_images_holds() {
    holds("old images", old_images());
}

#[test]
fn controllers_holds() {
    holds("controllers", controllers());
}

#[test]
fn handoff_holds() {
    holds("handoff", handoff());
}

#[test]
fn handoff_with_checkpoints_holds() {
    holds("handoff with checkpoints", handoff_with_checkpoints());
}

#[test]
fn two_partitions_holds() {
    holds("two partitions", two_partitions());
}

#[test]
fn restart_holds() {
    holds("restart", restart());
}

#[test]
fn collection_holds() {
    holds("collection", collection());
    holds("collection, listed last", collection_listed_last());
}

#[test]
fn collection_of_the_dead_holds() {
    holds("collection of the dead", collection_of_the_dead());
}

#[test]
fn collection_there_and_back_holds() {
    holds("collection there and back", collection_there_and_back());
}

#[test]
fn slow_sealer_holds() {
    holds("slow sealer", slow_sealer());
}

#[test]
fn put_without_condition_is_found() {
    finds(Flaw::PutWithoutCondition, takeover());
}

#[test]
fn any_epoch_is_found() {
    finds(Flaw::AnyEpoch, handoff());
}

#[test]
fn from_emptied_early_is_found() {
    finds(Flaw::FromEmptiedEarly, takeover());
}

#[test]
fn transactions_compare_nothing_is_found() {
    finds(Flaw::TransactionsCompareNothing, controllers());
}

#[test]
fn released_without_pending_is_found() {
    finds(Flaw::ReleasedWithoutPending, handoff());
}

#[test]
fn flipped_early_is_found() {
    finds(Flaw::FlippedEarly, handoff());
}

#[test]
fn dropped_on_old_image_is_found() {
    finds(Flaw::DroppedOnOldImage, handoff());
}

#[test]
fn acquired_on_old_image_is_found() {
    finds(Flaw::AcquiredOnOldImage, handoff());
}

#[test]
fn checkpoint_without_released_is_found() {
    finds(Flaw::CheckpointWithoutReleased, handoff_with_checkpoints());
}

#[test]
fn seal_not_read_back_is_found() {
    finds(Flaw::SealNotReadBack, slow_sealer());
}

#[test]
fn seals_collected_is_found() {
    finds(Flaw::SealsCollected, collection_of_the_dead());
}

#[test]
fn mark_without_check_is_found() {
    finds(Flaw::MarkWithoutCheck, collection_there_and_back());
}

#[test]
fn mark_from_old_image_is_found() {
    finds(Flaw::MarkFromOldImage, collection_behind_a_handoff());
}

#[test]
fn mark_from_own_states_is_found() {
    finds(Flaw::MarkFromOwnStates, collection_of_the_dead());
}

#[test]
fn torn_file_taken_for_whole_is_found() {
    finds(Flaw::TornFileTakenForWhole, restart());
}

#[test]
fn one_mark_is_found() {
    finds(Flaw::OneMark, collection_listed_last());
}
