//! The checks in their order: what costs nothing first, what opens files last.

use super::program::{Files, files_and_command, image_for, material};
use super::{DEFAULT_MEMORY, RequestError, RunRequest, Stdin};
use crate::error::Error;
use crate::site::{Site, check_places};
use outlast_machine::host;
use outlast_machine::image::{Bootable, MemoryNeeds};
use outlast_model::Memory;
use outlast_model::limit::{
    ARGUMENT_BYTES, DISK_RESERVE, IDEMPOTENCY_KEY_BYTES, OUTPUT_BYTES_MAX, STDIN_BYTES,
};
use outlast_model::spec::WorkloadSpec;
use std::fs::File;
use std::path::Path;

/// A request that may be carried out.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The image and the kernel it boots, opened: they cannot be removed any more.
    pub(crate) bootable: Bootable,
    /// What will lie in the working directory.
    pub(crate) files: Files,
    /// What is written down as asked for.
    pub(crate) spec: WorkloadSpec,
    /// The machine's memory.
    pub(crate) machine_memory: Memory,
    /// The request, for what needed no checking.
    pub(crate) request: RunRequest,
}

/// Checks a request against its image and this host. Makes nothing.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn check(site: &Site, request: RunRequest) -> Result<Checked, Error> {
    check_limits(&request)?;
    check_places(site.places())?;
    let stdin = check_stdin(&request.stdin)?;
    let material = material(&request.what)?;
    let libraries = site.places().libraries();
    let bootable = Bootable::choose(&libraries, image_for(&libraries, &request.what)?)?;
    let image = bootable.image();
    let host = Memory::from_bytes(host::memory_total()?.max(1)).expect("at least one byte");
    let (memory, machine_memory) = memory_for((image.name(), bootable.needs()), request.memory, host)?;
    let (files, mut argv) = files_and_command(image, &request.what, material, memory.bytes() / 2)?;
    argv.extend(request.arguments.iter().cloned());
    check_arguments(&argv, &request)?;
    check_disk(site.places().home(), files.bytes().saturating_add(stdin))?;
    let spec = WorkloadSpec {
        image: image.name().to_owned(),
        runtime: image.manifest().runtime().filter(|_| !matches!(files, Files::None)).map(|r| r.name.clone()),
        argv,
        env: request.env.clone(),
        vcpus: request.vcpus,
        memory,
        timeout: request.timeout,
        output_limit: request.output_limit,
    };
    Ok(Checked { bootable, files, spec, machine_memory, request })
}

fn check_limits(request: &RunRequest) -> Result<(), RequestError> {
    if request.output_limit == 0 || request.output_limit > OUTPUT_BYTES_MAX {
        return Err(RequestError::OutputLimit { asked: request.output_limit });
    }
    match request.idempotency_key.as_ref().map(String::len) {
        Some(length) if !(1..=IDEMPOTENCY_KEY_BYTES).contains(&length) => {
            Err(RequestError::KeyLength { length })
        }
        Some(_) | None => Ok(()),
    }
}

/// How many bytes of standard input there will be, as far as that can be known.
fn check_stdin(stdin: &Stdin) -> Result<u64, RequestError> {
    let Stdin::File(path) = stdin else { return Ok(0) };
    let what = "standard input";
    let failed = |source| RequestError::Read { what, path: path.clone(), source };
    // Opened to see that it can be; a pipe is looked at only, because opening it would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(RequestError::NotAFile { what, path: path.clone() });
    }
    if metadata.is_file() {
        File::open(path).map_err(failed)?;
    }
    if metadata.len() > STDIN_BYTES {
        return Err(RequestError::StdinTooLarge { size: metadata.len() });
    }
    Ok(metadata.len())
}

/// The program's limit and the machine's memory that follows from it.
pub(super) fn memory_for(
    (image, needs): (&str, MemoryNeeds),
    asked: Option<Memory>,
    host: Memory,
) -> Result<(Memory, Memory), RequestError> {
    let asked = asked.unwrap_or(DEFAULT_MEMORY.max(needs.min_limit));
    if asked < needs.min_limit {
        return Err(RequestError::MemoryTooSmall { asked, least: needs.min_limit, image: image.to_owned() });
    }
    let machine = needs.machine_for(asked);
    if machine > host {
        return Err(RequestError::MemoryTooLarge { asked, machine, host });
    }
    Ok((asked, machine))
}

fn check_arguments(argv: &[String], request: &RunRequest) -> Result<(), RequestError> {
    if let Some(index) = argv.iter().position(|argument| argument.contains('\0')) {
        return Err(RequestError::ZeroByte { number: index + 1 });
    }
    let environment = request.env.iter().map(|variable| variable.assignment().len() + 1);
    let size = argv.iter().map(|argument| argument.len() + 1).chain(environment).sum();
    if size > ARGUMENT_BYTES {
        return Err(RequestError::ArgumentsTooLong { size });
    }
    Ok(())
}

/// Refuses `input` bytes that would eat into the reserve. Asks the nearest directory that exists: the home may not
/// have been made yet.
pub(crate) fn check_disk(home: &Path, input: u64) -> Result<(), Error> {
    let path = home.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let (free, needed) = (host::disk_free(path)?, DISK_RESERVE.saturating_add(input));
    if free < needed {
        return Err(RequestError::DiskFull { path: path.to_owned(), free, needed }.into());
    }
    Ok(())
}
