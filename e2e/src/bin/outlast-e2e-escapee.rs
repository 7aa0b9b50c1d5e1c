//! Stands in a VMM's place and tries to get out. Started as QEMU is started, it finds its assignment by the
//! incarnation's id in its arguments; started as `outlast-e2e-escapee TABLE ID` it plays outside of any jail.

use outlast_e2e::escape::{self, Assignments, EXECUTED, TABLE};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let behind = |option: &str| {
        let at = arguments.iter().position(|argument| argument == option)?;
        arguments.get(at + 1).cloned()
    };
    let (table, id) = match arguments.get(1).map(String::as_str) {
        Some(EXECUTED) => {
            eprintln!("ESCAPED by executing a program");
            return ExitCode::SUCCESS;
        }
        Some(table) if !table.starts_with('-') => (table.to_owned(), arguments.get(2).cloned()),
        Some(_) | None => (TABLE.to_owned(), behind("-name")),
    };
    let read = std::fs::read(&table).map_err(|error| error.to_string());
    let assignments =
        read.and_then(|text| serde_json::from_slice::<Assignments>(&text).map_err(|error| error.to_string()));
    match assignments.map(|assignments| id.and_then(|id| assignments.get(&id).cloned())) {
        Ok(Some(assignment)) => escape::play(&assignment),
        other => eprintln!("no assignment in {table}: {other:?}"),
    }
    ExitCode::SUCCESS
}
