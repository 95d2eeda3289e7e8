//! The rules of the code base, read off its sources, so that no review has to look for them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the core, with its path below `core/src`.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The folder that it is in, or is the face of.
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// Lines of code with their numbers: no comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().zip(1..).map(|(line, number)| (number, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources() -> Vec<Source> {
    let base = root().join("core/src");
    let mut folders = vec![base.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&base).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50);
    found
}

/// The rooms in the order of ARCHITECTURE.md's table: each uses only those above it.
fn rooms() -> Vec<String> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rooms =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("/` |").map(|(room, _)| room.to_owned()));
    let rooms: Vec<String> = rooms.collect();
    assert!(rooms.len() >= 9 && rooms.contains(&"record".to_owned()), "{rooms:?}");
    rooms
}

/// What a line names behind `crate::`, the names in braces each.
fn named(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let list = rest.strip_prefix('{').unwrap_or(rest);
        let parts = if list.len() < rest.len() { list.split(", ").collect() } else { vec![list] };
        names.extend(
            parts.into_iter().map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()),
        );
    }
    names
}

fn check(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn rooms_use_only_those_above_them() {
    let rooms = rooms();
    let place = |room: &str| rooms.iter().position(|other| other == room);
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let room = source.room();
        if ["lib", "error", "clock", "bin"].contains(&room) {
            continue;
        }
        let Some(own) = place(room) else {
            wrong.push(format!("core/src/{}: the table in ARCHITECTURE.md has no room {room}/", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for name in named(line) {
                if place(name).is_some_and(|other| other > own) {
                    wrong.push(format!("core/src/{}:{number}: {room} uses {name}, which is below it", source.path));
                }
            }
        }
    }
    check(&wrong);
}

#[test]
fn only_native_knows_the_platform() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.room() != "native" && source.room() != "bin") {
        let is_root = source.path == "lib.rs";
        for (number, line) in source.code() {
            let Some((_, condition)) = line.split_once("cfg") else { continue };
            let is_target = ["target_", "unix", "windows"].iter().any(|word| condition.contains(word));
            let is_feature = condition.contains("feature") && !is_root;
            if condition.trim_start().starts_with(['(', '!', '_']) && (is_target || is_feature) {
                wrong.push(format!("core/src/{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    check(&wrong);
    let lib = sources().into_iter().find(|source| source.path == "lib.rs").unwrap();
    assert_eq!(lib.text.matches("feature = \"native\"").count(), 1, "the feature is named once");
}

#[test]
fn deciding_rooms_read_no_clock_and_start_nothing() {
    const DECIDE: [&str; 5] = ["record", "storage", "log", "protocol", "broker"];
    let words =
        ["Instant::now", "SystemTime", "thread::spawn", "std::fs", "std::net", "std::env", "async fn", "RandomState"];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| DECIDE.contains(&source.room()) && !source.is_test()) {
        for (number, line) in source.code() {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                wrong.push(format!("core/src/{}:{number}: {word}", source.path));
            }
        }
    }
    check(&wrong);
}

#[test]
fn files_are_of_a_size_that_can_be_read() {
    const MOST: usize = 1_500;
    let sources = sources();
    let long = sources.iter().filter(|source| !source.is_test() && source.text.lines().count() > MOST);
    check(
        &long
            .map(|source| format!("core/src/{} has more than {MOST} lines: is it two things?", source.path))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_is_left_to_be_done() {
    let words = ["todo!", "unimplemented!", "dbg!", "FIXME", "XXX"];
    let mut wrong = Vec::new();
    for source in &sources() {
        for (line, number) in source.text.lines().zip(1..) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                wrong.push(format!("core/src/{}:{number}: {word}", source.path));
            }
        }
    }
    check(&wrong);
}

#[test]
fn every_room_and_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test() && !source.path.starts_with("protocol/messages/"))
    {
        if !source.text.starts_with("//! ") {
            wrong.push(format!("core/src/{}: begins without a word on what it is", source.path));
        }
    }
    check(&wrong);
    for room in rooms() {
        let base = root().join("core/src");
        let is_there = base.join(&room).join("mod.rs").is_file() || base.join(format!("{room}.rs")).is_file();
        assert!(is_there, "ARCHITECTURE.md names a room that is not there: {room}");
    }
}

#[test]
fn names_say_something() {
    let empty = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "service", "processor"];
    let named = |source: &Source| {
        let mut parts = source.path.trim_end_matches(".rs").split('/').map(str::to_owned).collect::<Vec<_>>();
        parts.retain(|part| empty.contains(&part.as_str()));
        !parts.is_empty()
    };
    check(&sources().iter().filter(|source| named(source)).map(|source| source.path.clone()).collect::<Vec<_>>());
}
