//! Columns of text, padded to their widest cell; no lines, no colour, greppable.

/// Render `rows` under `head`. Cells are shown as they are; the last column is not padded.
#[must_use]
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            out.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up_and_have_no_trailing_blanks() {
        let rows =
            vec![vec!["a".into(), "control-plane".into()], vec!["long-name".into(), String::new()]];
        assert_eq!(
            super::render(&["NODE", "ROLE"], &rows),
            "NODE       ROLE\na          control-plane\nlong-name\n"
        );
    }
}
