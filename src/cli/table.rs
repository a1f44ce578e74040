//! Owns how a table is printed: columns as wide as their widest cell, two spaces apart.

use std::fmt;

use hearth::sanitise;

/// A time in seconds since 1970, for people, in UTC.
pub fn time(seconds: f64) -> String {
    hearth::clock::rfc3339(seconds as i64)
        .replace('T', " ")
        .replace('Z', "")
}

/// Rows of `N` cells below a heading.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    heading: bool,
}

impl<const N: usize> Table<N> {
    pub fn new(heading: [&str; N]) -> Self {
        Table {
            rows: vec![heading.map(str::to_string)],
            heading: true,
        }
    }

    /// A list of keys and values has no heading.
    #[must_use]
    pub fn without_heading(mut self) -> Self {
        self.heading = false;
        self
    }

    pub fn row(&mut self, cells: [&str; N]) {
        self.rows
            .push(cells.map(|cell| sanitise::line(cell).into_owned()));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = &self.rows[usize::from(!self.heading)..];
        let mut widths = [0; N];
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in rows {
            let line: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}
