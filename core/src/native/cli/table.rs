//! Numbers and tables as a person reads them.

use std::time::Duration;

/// `1204331` as `1,204,331`.
pub(super) fn count(number: i64) -> String {
    let text = count_u64(number.unsigned_abs());
    if number < 0 { format!("-{text}") } else { text }
}

/// The same.
pub(super) fn count_u64(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 partition`, `3 partitions`.
pub(super) fn plural(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", count_u64(number as u64), if number == 1 { "" } else { "s" })
}

/// Bytes with a unit, in thousands as disks and networks count: `965.3 MB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 999.95 {
            break;
        }
        value /= 1e3;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        whole if whole >= 3600 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        whole if whole >= 120 => format!("{} min {} s", whole / 60, whole % 60),
        _ if seconds >= 9.95 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.2} s"),
    }
}

/// A table without lines: the first column to the left, the others to the right.
pub(super) fn draw(headers: &[&str], rows: &[Vec<String>]) -> String {
    draw_aligned(headers, rows, |column| column > 0)
}

/// A table without lines; `to_right` says which columns hold numbers.
pub(super) fn draw_aligned(headers: &[&str], rows: &[Vec<String>], to_right: impl Fn(usize) -> bool) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            if to_right(at) {
                text.push_str(&format!("{gap}{cell:>width$}"));
            } else {
                text.push_str(&format!("{gap}{cell:<width$}"));
            }
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(headers.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([count(0), count(-1_234), count(1_204_331)], ["0", "-1,234", "1,204,331"]);
        assert_eq!([bytes(0), bytes(999), bytes(1_000), bytes(12_345_678)], ["0 B", "999 B", "1.0 kB", "12.3 MB"]);
        let seconds = |seconds| duration(Duration::from_secs_f64(seconds));
        assert_eq!(
            [seconds(0.4), seconds(12.34), seconds(200.0), seconds(7500.0)],
            ["0.40 s", "12.3 s", "3 min 20 s", "2 h 5 min"]
        );
        assert_eq!([plural(1, "topic"), plural(2_000, "topic")], ["1 topic", "2,000 topics"]);
    }

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "1,000".to_owned()]];
        assert_eq!(draw(&["name", "n"], &rows), "name      n\na         1\nlong  1,000");
    }
}
