//! Documents: links and file names in them resolve, formats and their code name each other.

use std::fs;
use std::path::Path;

use crate::source::{Source, files, relative, top};

/// The documents that people read.
fn documents() -> Vec<(String, String)> {
    let mut paths = files("docs", "md");
    paths.extend(["README.md", "CHANGELOG.md"].map(|name| top().join(name)));
    paths
        .iter()
        .filter(|path| path.exists())
        .map(|path| (relative(path), fs::read_to_string(path).expect("a document can be read")))
        .collect()
}

/// Markdown links and code-quoted repository paths that lead nowhere.
pub fn check_links() -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in documents() {
        let dir = top().join(&path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (number, line) in without_code_blocks(&text) {
            for target in links(line) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = if file.is_empty() { top().join(&path) } else { dir.join(file) };
                if !file.exists() {
                    complaints.push(format!("{path}:{number}: link to '{target}', which does not exist"));
                } else if !anchor.is_empty() && !headings(&file).iter().any(|heading| heading == anchor) {
                    complaints.push(format!("{path}:{number}: no heading for '#{anchor}' in '{target}'"));
                }
            }
            for name in quoted(line) {
                let plain = name.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c));
                let ours =
                    ["src/", "tests/", "docs/", "benches/", ".ci/", "fuzz/"].iter().any(|dir| name.starts_with(dir));
                if plain && ours && !top().join(name).exists() {
                    complaints.push(format!("{path}:{number}: `{name}` does not exist"));
                }
            }
        }
    }
    complaints
}

/// Every `docs/formats/*.md` is named by the code that writes it, and every name in code exists.
pub fn check_formats(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in files("docs/formats", "md") {
        let name = relative(&path);
        if !name.ends_with("README.md") && !sources.iter().any(|source| source.text.contains(&name)) {
            complaints.push(format!("{name}: no file of src names it"));
        }
    }
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            for (at, _) in line.match_indices("docs/") {
                let name: String =
                    line[at..].chars().take_while(|c| c.is_alphanumeric() || "_-./".contains(*c)).collect();
                let name = name.trim_end_matches(['.', '/']);
                // The number of a decision is enough: docs/adr/0001.
                let numbered = || files("docs/adr", "md").iter().any(|path| relative(path).starts_with(name));
                if !top().join(name).exists() && !numbered() {
                    complaints.push(format!("{}:{}: '{name}' does not exist", source.path, number + 1));
                }
            }
        }
    }
    complaints
}

/// Programs that the README shows are the files that are tested, without the comment that they begin with.
pub fn check_programs() -> Vec<String> {
    let readme = fs::read_to_string(top().join("README.md")).expect("the README can be read");
    let missing = |path: &str| {
        let text = fs::read_to_string(top().join(path)).expect("an example can be read");
        let comment = if Path::new(path).extension().is_some_and(|ending| ending == "py") {
            text.splitn(3, "\"\"\"").last()
        } else {
            text.split_once('\n').map(|(_, rest)| rest)
        };
        let program = comment.unwrap_or_default().trim_start();
        program.is_empty() || !readme.contains(&format!("\n{program}```\n"))
    };
    let shown = ["examples/tail.rs", "examples/python/tail.py"];
    shown.iter().filter(|path| missing(path)).map(|path| format!("README.md: does not show {path} as it is")).collect()
}

fn without_code_blocks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            return None;
        }
        (!inside).then_some((number + 1, line))
    })
}

fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split_once(')').map(|(target, _)| target))
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn headings(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    without_code_blocks(&text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                    _ => None,
                })
                .collect()
        })
        .collect()
}
