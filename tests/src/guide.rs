//! The guide as scripts: what of its pages is run, what is not, and why.
//!
//! A fenced block whose language is `sh` says after that word what becomes of it: `run`, `run exit=N` where the last
//! command is to end with N, or `elsewhere="WHERE"` for what another machine would be needed for. A block that says
//! nothing is a mistake, so that no command is left out by accident. The blocks of a page share one shell, the pages
//! one directory, as for a reader who works from top to bottom.

use std::fmt::Write as _;

/// A page as its reader works through it.
#[derive(Debug, Default)]
pub struct Page {
    /// What a shell is to run.
    pub script: String,
    /// How many blocks that holds.
    pub blocks: usize,
    /// What is not run: the line of the block and where it would be.
    pub elsewhere: Vec<(usize, String)>,
}

/// Reads a page of Markdown. The shell says `== NAME:LINE` on standard error before each block.
///
/// # Errors
/// The line of a block that does not say what becomes of it, or that does not end.
pub fn read(name: &str, text: &str) -> Result<Page, String> {
    // What a page starts in the background ends with it.
    let mut page = Page {
        script:
            "set -euo pipefail\ntrap 'code=$?; kill $(jobs -p) 2>/dev/null || true; wait; exit $code' EXIT\n"
                .to_owned(),
        ..Page::default()
    };
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let mut body = String::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, line)) => body.extend([line, "\n"]),
                None => return Err(format!("{name}:{number}: the block does not end")),
            }
        }
        let Some(fate) = info.strip_prefix("sh") else { continue };
        let fate = fate.trim();
        if let Some(place) = fate.strip_prefix("elsewhere=\"").and_then(|place| place.strip_suffix('"')) {
            page.elsewhere.push((number, place.to_owned()));
            continue;
        }
        page.blocks += 1;
        let _ = writeln!(page.script, "echo '== {name}:{number}' >&2");
        let exit = fate.strip_prefix("run exit=").and_then(|code| code.parse::<u8>().ok());
        match (fate, exit) {
            ("run", _) => page.script.push_str(&body),
            (_, Some(code)) => {
                let _ = write!(
                    page.script,
                    "code=0\n(set -e\n{body}) || code=$?\n\
                     [ \"$code\" = {code} ] || {{ echo \"exit code $code instead of {code}\" >&2; exit 1; }}\n"
                );
            }
            _ => {
                return Err(format!(
                    "{name}:{number}: say `sh run`, `sh run exit=N` or `sh elsewhere=\"WHERE\"` instead of `{info}`"
                ));
            }
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_says_what_becomes_of_it() {
        let text = "a\n```sh run\none\n```\n```toml\nx = 1\n```\n```sh run exit=2\ntwo\n```\n\
                    ```sh elsewhere=\"on a moon\"\nthree\n```\n";
        let page = read("p", text).expect("all is said");
        assert_eq!((page.blocks, page.elsewhere), (2, vec![(11, "on a moon".to_owned())]));
        assert!(page.script.contains("echo '== p:2' >&2\none\n") && !page.script.contains("three"));
        assert!(read("p", "```sh\nforgotten\n```\n").unwrap_err().starts_with("p:1: say `sh run`"));
        assert!(read("p", "\n```sh run\nno end").unwrap_err().starts_with("p:2: "));
    }
}
