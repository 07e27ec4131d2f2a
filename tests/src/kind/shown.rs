//! Outputs of real commands in a page of documentation: each block follows a line that names it, and is replaced as a
//! whole.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};

/// What a person typed, and what came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Name of the block.
    pub name: &'static str,
    /// The command line.
    pub command: String,
    /// What it printed.
    pub output: String,
}

impl Shown {
    fn block(&self) -> String {
        // Nobody sees blanks at the ends of lines, and editors remove them.
        let lines = self.output.trim_end().lines().map(str::trim_end);
        let mut text = format!("```console\n$ {}\n", self.command);
        for line in lines {
            writeln!(text, "{line}").expect("a String takes any text");
        }
        text + "```\n"
    }
}

/// The line before a block.
fn marker(name: &str) -> String {
    format!("<!-- shown: {name} -->\n")
}

/// The page with these outputs in their places.
///
/// # Errors
/// When the page has no such place, or no block there.
pub fn insert(page: &str, shown: &[Shown]) -> anyhow::Result<String> {
    let mut page = page.to_owned();
    for one in shown {
        let marker = marker(one.name);
        let (before, rest) = page.split_once(&marker).with_context(|| format!("the page has no line {marker}"))?;
        ensure!(rest.starts_with("```console\n"), "after {marker} there is no block");
        let (_, after) = rest.split_once("\n```\n").with_context(|| format!("the block {} does not end", one.name))?;
        page = format!("{before}{marker}{}{after}", one.block());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n<!-- shown: status -->\n```console\n$ old\nwhat it was\n```\n\nMore.\n";

    fn status(output: &str) -> Shown {
        Shown { name: "status", command: "kubectl kvc status".to_owned(), output: output.to_owned() }
    }

    #[test]
    fn a_block_is_replaced_and_nothing_else() {
        let page = insert(PAGE, &[status("NODE   ROLE  \ndemo-0 leads\n\n")]).expect("inserted");
        let block = "```console\n$ kubectl kvc status\nNODE   ROLE\ndemo-0 leads\n```\n";
        assert_eq!(page, format!("# A page\n\n<!-- shown: status -->\n{block}\nMore.\n"));
        assert_eq!(insert(&page, &[status("NODE   ROLE\ndemo-0 leads")]).expect("again"), page);
    }

    #[test]
    fn a_page_without_the_place_is_an_error() {
        let other = Shown { name: "events", ..status("") };
        assert!(insert(PAGE, &[other]).expect_err("missing").to_string().contains("shown: events"));
    }
}
