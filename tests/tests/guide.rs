//! Works through the guide as its reader would: every command on its pages, in order, with the real programs.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use mtinet_tests::guide::{self, Page};
use mtinet_tests::program;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// In the order in which they are read; each goes on where those before it ended.
const PAGES: [&str; 6] = ["first-study", "data", "report", "cluster", "trouble", "upgrades"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(format!("{name}.md"))).unwrap()
}

/// The machine of a reader: a home, an empty directory, our programs, nothing else set.
fn shell(home: &Path, script: &str, log: &Path) -> Command {
    let mut command = Command::new("bash");
    let bin = program("mtinet").parent().map(PathBuf::from).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MTINET_")) {
        command.env_remove(name);
    }
    let out = std::fs::File::options().create(true).append(true).open(log).unwrap();
    command
        .args(["-c", script])
        .current_dir(home)
        .env("HOME", home)
        .env("PATH", path)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME")
        // Several trainers share a small machine here.
        .env("OMP_THREAD_LIMIT", "1")
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .process_group(0);
    command
}

#[test]
fn every_command_of_the_guide_works() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("guide.log");
    // The pages name the port that people use; here it may be taken.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut blocks = 0;
    for name in PAGES {
        let page = guide::read(name, &text(name).replace("7077", &port)).unwrap();
        let began = Instant::now();
        let mut child = shell(home.path(), &page.script, &log).spawn().unwrap();
        let status = child.wait().unwrap();
        // What a page leaves in the background ends here at the latest; usually nothing is left.
        let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL);
        let said = std::fs::read_to_string(&log).unwrap();
        let tail: Vec<&str> = said.lines().rev().take(60).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let workers = std::fs::read_to_string(home.path().join("node1.log")).unwrap_or_default();
        assert!(status.success(), "{name} ended with {status}:\n{}\nnode1: {workers}", tail.join("\n"));
        println!("{name}: {} blocks in {:.1} s", page.blocks, began.elapsed().as_secs_f64());
        for (line, place) in &page.elsewhere {
            println!("  docs/{name}.md:{line} is not run: it belongs {place}");
        }
        blocks += page.blocks;
    }
    assert!(blocks >= 25, "only {blocks} blocks were run");
}

#[test]
fn every_page_is_worked_through_and_every_link_leads_somewhere() {
    let docs = root().join("docs");
    let pages: Vec<String> = std::fs::read_dir(&docs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .collect();
    for page in &pages {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        let name = page.trim_end_matches(".md");
        let Page { blocks, elsewhere, .. } = guide::read(name, &text).unwrap();
        assert!(blocks + elsewhere.len() == 0 || PAGES.contains(&name), "docs/{page} is not in PAGES");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                assert!(docs.join(target).exists(), "docs/{page} links to {target}");
            }
        }
    }
    for name in PAGES {
        assert!(
            pages.contains(&format!("{name}.md")) && text("README").contains(&format!("({name}.md)")),
            "{name}"
        );
    }
}
