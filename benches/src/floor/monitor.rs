//! As much of QEMU's monitor protocol (QMP) as a bare script needs.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

/// A monitor that takes commands.
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Waits for the greeting and asks for commands.
    pub(crate) fn greeted(stream: UnixStream) -> anyhow::Result<Self> {
        let mut monitor = Self { stream: BufReader::new(stream) };
        let greeting = monitor.next()?;
        greeting.get("QMP").context("the monitor greets")?;
        monitor.execute("qmp_capabilities", None)?;
        Ok(monitor)
    }

    /// A command and its answer; events in between are left out.
    pub(crate) fn execute(&mut self, command: &str, arguments: Option<Value>) -> anyhow::Result<Value> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.next()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Loads a device state; the memory is where it always was.
    pub(crate) fn restore(&mut self, address: &str) -> anyhow::Result<()> {
        let capability = |name: &str| json!({ "capability": name, "state": true });
        let wanted = json!({ "capabilities": [capability("x-ignore-shared"), capability("events")] });
        self.execute("migrate-set-capabilities", Some(wanted))?;
        self.execute("migrate-incoming", Some(json!({ "uri": address })))?;
        loop {
            let said = self.next()?;
            if said["event"] == "MIGRATION" {
                match said["data"]["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed") => bail!("the state cannot be loaded"),
                    Some(_) | None => {}
                }
            }
        }
    }

    fn next(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("hear the monitor")? == 0 {
            bail!("the monitor hung up");
        }
        serde_json::from_str(&line).context("understand the monitor")
    }
}
