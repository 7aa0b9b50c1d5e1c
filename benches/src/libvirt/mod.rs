//! The peer: libvirt restoring the same guest, when libvirt is installed and runs.
//!
//! Same kernel, initramfs, root file system, memory and CPU model; libvirt's own QEMU, devices and save format. The
//! clock starts before `virsh restore` and stops when the agent answers: what a person at a shell would wait.

mod service;

use crate::clock;
use crate::floor::agent::Port;
use crate::recipe::Recipe;
use anyhow::Context as _;
use service::Service;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
const PATIENCE: Duration = Duration::from_secs(60);

/// A saved guest that libvirt can restore. Goes away with this value.
#[derive(Debug)]
pub(crate) struct Saved {
    service: Service,
    name: String,
    directory: PathBuf,
    /// What libvirt and its QEMU say they are.
    pub(crate) versions: String,
    /// The definition of the guest.
    pub(crate) definition: String,
}

impl Saved {
    /// Boots the guest of a cold boot under libvirt and saves it.
    pub(crate) fn make(recipe: &Recipe, kvm: bool) -> anyhow::Result<Self> {
        let service = Service::find(kvm)?;
        let versions = service.versions()?;
        let name = format!("outlast-bench-{}", std::process::id());
        let directory = Path::new("/run").join(&name);
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let socket = directory.join("agent");
        let definition = definition(recipe, &name, &socket, kvm);
        let saved = Self { service, name, directory, versions, definition: definition? };
        saved.boot_and_save().context("boot and save the guest under libvirt")?;
        Ok(saved)
    }

    fn boot_and_save(&self) -> anyhow::Result<()> {
        let file = self.directory.join("domain.xml");
        fs::write(&file, &self.definition)?;
        self.service.virsh(["create", &*file.to_string_lossy()])?;
        let port = self.connect()?;
        Port::greeted(&port)?.quiesce()?;
        drop(port);
        self.service.virsh(["save", &self.name, &*self.state().to_string_lossy()])
    }

    /// One restore, from the command to the agent's answer, in milliseconds.
    pub(crate) fn restore(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.service.virsh(["restore", &*self.state().to_string_lossy()])?;
        Port::greeted(&self.connect()?)?;
        let ms = clock::ms_since(began);
        self.service.virsh(["destroy", &self.name])?;
        Ok(ms)
    }

    /// One destruction of a guest that runs, the whole command, in milliseconds.
    pub(crate) fn destroy(&self) -> anyhow::Result<f64> {
        self.service.virsh(["restore", &*self.state().to_string_lossy()])?;
        Port::greeted(&self.connect()?)?;
        let began = Instant::now();
        self.service.virsh(["destroy", &self.name])?;
        Ok(clock::ms_since(began))
    }

    /// Defines so many domains that do not run.
    pub(crate) fn define_many(&self, count: u64) -> anyhow::Result<Defined<'_>> {
        let mut defined = Defined { saved: self, names: Vec::new() };
        let file = self.directory.join("many.xml");
        for number in 0..count {
            let name = format!("{}-{number}", self.name);
            let own = format!("<name>{name}</name>");
            fs::write(&file, self.definition.replace(&format!("<name>{}</name>", self.name), &own))?;
            self.service.virsh(["define", &*file.to_string_lossy()])?;
            defined.names.push(name);
        }
        Ok(defined)
    }

    /// One list of all domains, the whole command, in milliseconds.
    pub(crate) fn list(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.service.virsh(["list", "--all"])?;
        Ok(clock::ms_since(began))
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The socket is QEMU's and listens when virsh returns.
    fn connect(&self) -> anyhow::Result<UnixStream> {
        let port =
            UnixStream::connect(self.directory.join("agent")).context("connect to the agent's port")?;
        port.set_read_timeout(Some(PATIENCE))?;
        Ok(port)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // Not there in the normal case.
        let _ = self.service.virsh(["destroy", &self.name]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Domains that were defined. They go away with this value.
#[derive(Debug)]
pub(crate) struct Defined<'a> {
    saved: &'a Saved,
    names: Vec<String>,
}

impl Drop for Defined<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = self.saved.service.virsh(["undefine", name]) {
                eprintln!("{name} stays: {error:#}");
            }
        }
    }
}

fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The guest in libvirt's words.
fn definition(recipe: &Recipe, name: &str, socket: &Path, kvm: bool) -> anyhow::Result<String> {
    let file = |inside: &str| {
        let found = recipe.files.iter().find(|file| file.inside == Path::new(inside));
        let found = found.with_context(|| format!("a booting VMM is shown {inside}"))?;
        Ok::<_, anyhow::Error>(escaped(&found.source.to_string_lossy()))
    };
    let option =
        |name: &str| recipe.option(name).with_context(|| format!("a booting VMM has {name}")).map(escaped);
    let (memory, vcpus) = (option("-m")?, option("-smp")?);
    let memory = memory.strip_suffix('M').context("memory is said in MiB")?;
    let kind = if kvm { "kvm" } else { "qemu" };
    let cpu = if kvm { "host-passthrough" } else { "maximum" };
    Ok(format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initramfs}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='{cpu}'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{EMULATOR}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{rootfs}'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
    </disk>
    <channel type='unix'>
      <source mode='bind' path='{socket}'/>
      <target type='virtio' name='{port}'/>
    </channel>
    <serial type='null'/>
    <memballoon model='none'/>
  </devices>
  <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>
</domain>
",
        kernel = file("/vm/kernel")?,
        initramfs = file("/vm/initramfs")?,
        command_line = option("-append")?,
        rootfs = file("/vm/rootfs")?,
        socket = socket.display(),
        port = outlast_wire::guest::PORT_NAME,
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Shown;

    #[test]
    fn the_guest_is_the_one_of_the_cold_boot() {
        let shown = |name: &str| Shown {
            source: format!("/lib/{name}").into(),
            inside: format!("/vm/{name}").into(),
        };
        let recipe = Recipe {
            root: "/r".into(),
            program: "/usr/bin/qemu".into(),
            arguments: ["-m", "256M", "-smp", "1", "-append", "quiet a='1'"].map(str::to_owned).to_vec(),
            files: ["kernel", "initramfs", "rootfs"].map(shown).to_vec(),
            devices: vec![],
        };
        let text = definition(&recipe, "guest", Path::new("/s"), false).unwrap();
        for part in [
            "<domain type='qemu'>",
            "<memory unit='MiB'>256</memory>",
            "<kernel>/lib/kernel</kernel>",
            "<cmdline>quiet a=&apos;1&apos;</cmdline>",
            "<source file='/lib/rootfs'/>",
            "name='outlast.agent'",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(definition(&Recipe { files: vec![], ..recipe }, "guest", Path::new("/s"), false).is_err());
    }
}
