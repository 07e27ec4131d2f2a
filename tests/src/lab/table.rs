//! Tables for terminals and for Markdown.

use comfy_table::{CellAlignment, Table, presets};

/// A table in Markdown, which reads well on a terminal too. The first `texts` columns are texts and stand to
/// the left, all others are numbers and stand to the right.
pub(crate) fn table(header: &[&str], texts: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(texts) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}
