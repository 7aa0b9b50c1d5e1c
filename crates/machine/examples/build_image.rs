//! Drives images and the VMM root before the command line can; goes away when it does.
//!
//! `build_image LIBRARY build NAME|vmm`, `… ls`, `… verify NAME`, `… check NAME`, `… rm NAME`, `… boot NAME AGENT`.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use outlast_machine::image::{self, Mirror, Progress};
use outlast_machine::vmm_root;
use outlast_wire::paths::Library;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let library = Library::at(args[0].clone().into());
    let mirror =
        std::env::var("OUTLAST_MIRROR").map_or_else(|_| Mirror::default(), |text| Mirror::parse(&text));
    let began = Instant::now();
    let mut last = None;
    let mut report = |p: Progress<'_>| {
        if last != Some(p.phase) {
            println!("{:8.3} {} {}", began.elapsed().as_secs_f64(), p.phase.describe(), p.detail);
            last = Some(p.phase);
        }
    };
    match (args[1].as_str(), args.get(2).map_or("", String::as_str)) {
        ("build", "vmm") => {
            let root = vmm_root::build(&library, &mirror, &mut report)?;
            println!("{} {} {}", root.path().display(), root.version(), root.digest());
        }
        ("build", name) => {
            let image = image::build(&library, name, &mirror, &mut report)?;
            println!("{} {}", image.name(), image.manifest().digest());
        }
        ("ls", _) => {
            for listed in image::list(&library)? {
                println!("{} {:?}", listed.name, listed.manifest.map(|m| m.digest()));
            }
        }
        ("check", "vmm") => vmm_root::open(&library)?.check(&library)?,
        ("verify", "vmm") => vmm_root::verify(&library, &vmm_root::open(&library)?, &mut report)?,
        ("check", name) => image::open(&library, name)?.check(&library)?,
        ("verify", name) => image::verify(&library, &image::open(&library, name)?, &mut report)?,
        ("rm", name) => image::remove(&library, name, &|_| None)?,
        ("boot", name) => {
            println!("{:?}", image::initramfs(&library, &image::open(&library, name)?, Path::new(&args[3]))?);
        }
        _ => return Err("usage: build_image LIBRARY build|ls|check|verify|rm|boot [NAME] [AGENT]".into()),
    }
    println!("{:8.3} done", began.elapsed().as_secs_f64());
    Ok(())
}
