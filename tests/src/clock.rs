//! A wall clock that a test can set, for the programs of one host.
//!
//! A small library in C stands before the system's clock. Time that only goes forward is the true one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Command;

use crate::hosts::Place;

/// The clock of a host.
pub struct Clock {
    dir: tempfile::TempDir,
    board: File,
}

impl Clock {
    /// A clock that is right so far; in words where it cannot be had.
    ///
    /// # Errors
    /// Without a C compiler.
    pub fn new() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let source = dir.path().join("clock_jump.c");
        std::fs::write(&source, include_str!("clock_jump.c")).map_err(|error| error.to_string())?;
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(&compiler)
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(dir.path().join("clock_jump.so"))
            .arg(&source)
            .arg("-ldl")
            .output()
            .map_err(|error| format!("clocks cannot be set: {compiler}: {error}"))?;
        if !built.status.success() {
            return Err(format!("clocks cannot be set: {}", String::from_utf8_lossy(&built.stderr)));
        }
        let board = File::options().create_new(true).read(true).write(true).open(dir.path().join("board"));
        let mut board = board.map_err(|error| error.to_string())?;
        board.write_all(&[0; 16]).map_err(|error| error.to_string())?;
        Ok(Self { dir, board })
    }

    /// The place with this clock.
    #[must_use]
    pub fn at(&self, place: Place) -> Place {
        let path = |name: &str| -> PathBuf { self.dir.path().join(name) };
        place
            .with("LD_PRELOAD", path("clock_jump.so").to_string_lossy())
            .with("MTINET_TEST_CLOCK", path("board").to_string_lossy())
    }

    /// Sets the clock so many seconds before or after the true time.
    ///
    /// # Panics
    /// Where the board cannot be written.
    pub fn jump(&mut self, seconds: i64) {
        self.board.rewind().expect("the board is a file");
        self.board.write_all(&seconds.to_ne_bytes()).expect("the board is written");
    }

    /// How often a clock that was not right has been read.
    ///
    /// # Panics
    /// Where the board cannot be read.
    pub fn wrong_reads(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.board.seek(SeekFrom::Start(8)).expect("the board is a file");
        self.board.read_exact(&mut bytes).expect("the board is read");
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_clock_that_was_set_reads_the_wrong_time() {
        let Ok(mut clock) = Clock::new() else { return };
        let year = |clock: &Clock| {
            let output = clock.at(Place::default()).command("date".as_ref()).arg("+%Y").output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().unwrap()
        };
        let now = year(&clock);
        assert_eq!(clock.wrong_reads(), 0);
        clock.jump(-10 * 366 * 86_400);
        assert!(year(&clock) <= now - 10);
        assert!(clock.wrong_reads() > 0);
    }
}
