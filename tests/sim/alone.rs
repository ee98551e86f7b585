//! One run in a process of its own, whose entropy is fixed: what a process or a thread remembers is no part of a run.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::run::{Mutant, Outcome, Plan, Script, run};

const PLAN: &str = "ESKER_SIM_PLAN";
/// The test that is the other process.
const CHILD: &str = "alone::one_run";
/// Between the violations and the history, and behind it.
const HISTORY: &str = "--- history";
const END: &str = "--- end";

/// The shared object of `entropy.c`, compiled once per process.
fn entropy() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let object = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("entropy-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/entropy.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&object).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "cc must compile {source}");
        object
    })
}

/// Runs it elsewhere.
pub fn run_alone(plan: Plan) -> Outcome {
    let Plan { seed, brokers, mutant, script } = plan;
    let done = Command::new(std::env::current_exe().expect("this is a program"))
        .args([CHILD, "--exact", "--ignored", "--nocapture"])
        .env(PLAN, format!("{seed} {brokers} {} {}", mutant as u8, script as u8))
        .env("LD_PRELOAD", entropy())
        .output()
        .expect("this program can be started again");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut violations: Vec<String> = Vec::new();
    if !done.status.success() {
        violations.push(format!("the run panicked:\n{}", String::from_utf8_lossy(&done.stderr)));
    }
    let (told, history) = text.split_once(HISTORY).unwrap_or((&text, ""));
    let (history, _) = history.split_once(END).unwrap_or((history, ""));
    violations.extend(told.lines().filter_map(|line| line.strip_prefix("! ")).map(str::to_owned));
    let acknowledged = told.lines().find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    Outcome { history: history.to_owned(), violations, acknowledged: acknowledged.unwrap_or(0) }
}

/// The other process. Without a plan there is nothing to do.
#[test]
#[ignore = "started by the other tests"]
fn one_run() {
    let Ok(plan) = std::env::var(PLAN) else { return };
    let numbers: Vec<u64> = plan.split(' ').map(|number| number.parse().unwrap()).collect();
    let [seed, brokers, mutant, script] = numbers[..] else { panic!("'{plan}' is no plan") };
    let (mutant, script) = (Mutant::ALL[mutant as usize], Script::ALL[script as usize]);
    tell(&run(Plan { seed, brokers: brokers as usize, mutant, script }));
}

/// For the process that waits for this one.
pub fn tell(outcome: &Outcome) {
    println!();
    println!("acknowledged {}", outcome.acknowledged);
    for violation in &outcome.violations {
        println!("! {}", violation.replace('\n', " "));
    }
    println!("{HISTORY}\n{}{END}", outcome.history);
}
