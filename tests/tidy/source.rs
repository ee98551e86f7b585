//! Reading Rust source just well enough: text without comments and literals, and the paths it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// Path from the top of the repository.
    pub path: String,
    /// As it is.
    pub text: String,
    /// With comments and the insides of literals blanked; lines keep their numbers.
    pub code: String,
}

impl Source {
    pub fn from_text(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// Whether this file holds tests only.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/") || self.path.starts_with("tests/")
    }

    /// The module that the file is, from the crate root: `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`.
    pub fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            parts.pop();
        }
        parts
    }

    /// 1-based line of a byte position.
    pub fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Every path that starts with `crate`, `self` or `super`, made absolute, with the line it stands on. The crate
    /// itself is the empty path; `super` beyond the root is reported as `None`.
    pub fn internal_paths(&self) -> Vec<(usize, Option<Vec<String>>)> {
        let mut found = Vec::new();
        let bytes = self.code.as_bytes();
        for (at, word) in words(&self.code) {
            let continues = self.code[..at].trim_end().ends_with("::");
            if continues || !matches!(word, "crate" | "self" | "super") {
                continue;
            }
            let after = at + word.len();
            let is_path = self.code[after..].trim_start().starts_with("::");
            let renamed = word == "crate" && self.code[after..].trim_start().starts_with("as ");
            let visibility = bytes[..at].last() == Some(&b'(');
            if (!is_path && !renamed) || visibility {
                continue;
            }
            let base = match word {
                "crate" => Some(Vec::new()),
                "self" => Some(self.module()),
                _ => parent(&self.module()),
            };
            let mut position = after;
            expand(&self.code, &mut position, base, &mut |path| found.push((self.line(at), path)));
        }
        found
    }
}

fn parent(module: &[String]) -> Option<Vec<String>> {
    module.split_last().map(|(_, rest)| rest.to_vec())
}

/// Follows `:: a :: { b, c::d }` from `position`, giving every leaf.
fn expand(code: &str, position: &mut usize, base: Option<Vec<String>>, leaf: &mut dyn FnMut(Option<Vec<String>>)) {
    skip_space(code, position);
    if !code[*position..].starts_with("::") {
        leaf(base);
        return;
    }
    *position += 2;
    skip_space(code, position);
    if code[*position..].starts_with('{') {
        *position += 1;
        loop {
            skip_space(code, position);
            match code[*position..].chars().next() {
                None => return,
                Some('}') => {
                    *position += 1;
                    return;
                }
                Some(',') => *position += 1,
                Some(_) => {
                    let next = step(code, position, base.clone());
                    expand(code, position, next, leaf);
                    // `as name`
                    while let Some(other) = code[*position..].chars().next()
                        && other != ','
                        && other != '}'
                    {
                        *position += other.len_utf8();
                    }
                }
            }
        }
    }
    let next = step(code, position, base);
    expand(code, position, next, leaf);
}

/// Takes one path segment at `position`.
fn step(code: &str, position: &mut usize, base: Option<Vec<String>>) -> Option<Vec<String>> {
    let rest = &code[*position..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let word = &rest[..end];
    if end == 0 {
        // `*` of a glob, `<` of a turbofish: the path ends here.
        *position += rest.chars().next().map_or(0, char::len_utf8);
        return base;
    }
    *position += end;
    match word {
        "self" => base,
        "super" => base.as_deref().and_then(parent),
        _ => base.map(|mut path| {
            path.push(word.to_owned());
            path
        }),
    }
}

fn skip_space(code: &str, position: &mut usize) {
    *position += code[*position..].len() - code[*position..].trim_start().len();
}

/// Identifiers and keywords with their byte positions.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut position = 0;
    std::iter::from_fn(move || {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = position + code[position..].find(is_word)?;
        let length = code[start..].find(|c: char| !is_word(c)).unwrap_or(code.len() - start);
        position = start + length;
        Some((start, &code[start..position]))
    })
}

/// Replaces comments and the insides of string and character literals by spaces. Line breaks stay.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let hide = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while at < chars.len() {
        let rest = &chars[at..];
        if rest.starts_with(&['/', '/']) {
            while at < chars.len() && chars[at] != '\n' {
                out.push(' ');
                at += 1;
            }
        } else if rest.starts_with(&['/', '*']) {
            let mut depth = 0;
            while at < chars.len() {
                if chars[at..].starts_with(&['/', '*']) {
                    depth += 1;
                    out.push_str("  ");
                    at += 2;
                } else if chars[at..].starts_with(&['*', '/']) {
                    depth -= 1;
                    out.push_str("  ");
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    hide(&mut out, chars[at]);
                    at += 1;
                }
            }
        } else if let Some(hashes) = raw_string(rest, at.checked_sub(1).map(|before| chars[before])) {
            let start = chars[at..].iter().position(|&c| c == '"').map_or(at, |quote| at + quote) + 1;
            while at < start {
                out.push(chars[at]);
                at += 1;
            }
            let mut close = vec!['"'];
            close.extend(std::iter::repeat_n('#', hashes));
            while at < chars.len() && !chars[at..].starts_with(&close) {
                hide(&mut out, chars[at]);
                at += 1;
            }
            out.extend(&close);
            at += close.len();
        } else if chars[at] == '"' {
            out.push('"');
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                if chars[at] == '\\' {
                    out.push(' ');
                    at += 1;
                }
                if at < chars.len() {
                    hide(&mut out, chars[at]);
                    at += 1;
                }
            }
            out.push('"');
            at += 1;
        } else if chars[at] == '\'' {
            // A character literal or a lifetime.
            let literal = match rest {
                [_, '\\', ..] => rest.iter().skip(3).position(|&c| c == '\'').map(|close| close + 4),
                [_, _, '\'', ..] => Some(3),
                _ => None,
            };
            if let Some(length) = literal {
                out.push('\'');
                out.extend(std::iter::repeat_n(' ', length - 2));
                out.push('\'');
                at += length;
            } else {
                out.push('\'');
                at += 1;
            }
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Number of `#` if a raw string literal starts here.
fn raw_string(rest: &[char], before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let rest = rest.strip_prefix(&['b']).unwrap_or(rest).strip_prefix(&['r'])?;
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    (rest.get(hashes) == Some(&'"')).then_some(hashes)
}

/// Every file under `dir` (from the repository's top) whose name ends in `.ending`, sorted.
pub fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    walk(&top().join(dir), ending, &mut found);
    found.into_iter().collect()
}

fn walk(dir: &Path, ending: &str, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a directory can be listed").path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("node_modules") {
                walk(&path, ending, found);
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.insert(path);
        }
    }
}

/// The repository's top.
pub fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Path from the repository's top, with forward slashes.
pub fn relative(path: &Path) -> String {
    path.strip_prefix(top()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// The Rust sources under `dir`.
pub fn sources(dir: &str) -> Vec<Source> {
    files(dir, "rs")
        .iter()
        .map(|path| Source::from_text(&relative(path), &fs::read_to_string(path).expect("a source file can be read")))
        .collect()
}
