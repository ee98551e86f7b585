//! Aligned columns for people.

/// Lines of `rows` under `header`, each column as wide as its widest cell and two spaces apart; columns whose cells are all
/// numbers are aligned to the right.
pub fn aligned(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..header.len())
        .map(|at| rows.iter().map(|row| width(&row[at])).chain([width(header[at])]).max().unwrap_or(0))
        .collect();
    let number = |text: &String| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let right: Vec<bool> = (0..header.len()).map(|at| rows.iter().all(|row| number(&row[at]))).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (at, cell) in cells.into_iter().enumerate() {
            let gap = " ".repeat(widths[at] - width(cell));
            let (before, after) = if right[at] { (gap.as_str(), "") } else { ("", gap.as_str()) };
            line.push_str(if at == 0 { "" } else { "  " });
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
