//! Puts the program's files into the guest, before the incarnation is published.
//!
//! The files lie in the evidence directory, checked and flattened by whoever accepted the request: there is
//! nothing in there but directories and regular files.

use crate::link::{BACKLOG, Link, LinkError};
use outlast_wire::guest::{FileData, GuestMessage, HostMessage, MAX_CHUNK, MakeDirectory, PutFile};
use outlast_wire::intent::Program;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The program's files are not in the guest.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    /// A file or directory of the host.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name that the link cannot carry.
    #[error("the name of {0:?} is not UTF-8")]
    Name(PathBuf),
    /// The guest would not take it.
    #[error("cannot put {path} into the guest")]
    Put {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: LinkError,
    },
}

/// Sends everything below `root` to the program's working directory. A missing `root` is an empty one.
pub(crate) async fn send(link: &mut Link, root: &Path, program: &Program) -> Result<(), InputError> {
    let mut pending = vec![(root.to_path_buf(), program.cwd.clone())];
    while let Some((directory, target)) = pending.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory == root => return Ok(()),
            Err(source) => return Err(InputError::Read { path: directory, source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| InputError::Read { path: directory.clone(), source })?;
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| InputError::Name(path.clone()))?;
            let target = format!("{target}/{name}");
            let metadata =
                std::fs::metadata(&path).map_err(|source| InputError::Read { path: path.clone(), source })?;
            let mode = metadata.permissions().mode() & 0o777;
            if metadata.is_dir() {
                make_directory(link, &target, mode, program).await?;
                pending.push((path, target));
            } else {
                put_file(link, &path, &target, mode, program).await?;
            }
        }
    }
    Ok(())
}

async fn make_directory(link: &mut Link, path: &str, mode: u32, program: &Program) -> Result<(), InputError> {
    let message = MakeDirectory { path: path.to_owned(), mode, uid: program.uid, gid: program.gid };
    let answered = link.request("make directory", HostMessage::MakeDirectory(message)).await;
    match answered.map_err(|source| InputError::Put { path: path.to_owned(), source })? {
        GuestMessage::Done(_) => Ok(()),
        _ => Err(unexpected(path)),
    }
}

async fn put_file(
    link: &mut Link,
    source: &Path,
    path: &str,
    mode: u32,
    program: &Program,
) -> Result<(), InputError> {
    let read = |error| InputError::Read { path: source.to_path_buf(), source: error };
    let put = |source| InputError::Put { path: path.to_owned(), source };
    let mut file = File::open(source).map_err(read)?;
    let stream = link.open_stream();
    let message = PutFile { path: path.to_owned(), mode, uid: program.uid, gid: program.gid };
    link.queue(stream, HostMessage::PutFile(message)).map_err(put)?;
    let (mut credit, mut last) = (0, false);
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        while !last && credit >= MAX_CHUNK && link.backlog() < BACKLOG {
            let count = file.read(&mut chunk).map_err(read)?;
            last = count == 0;
            credit -= count;
            let data = FileData { data: chunk[..count].to_vec(), last };
            link.queue(stream, HostMessage::FileData(data)).map_err(put)?;
        }
        let has_more = !last && credit >= MAX_CHUNK;
        let answer = if has_more {
            link.answer_or_room("put file", stream).await
        } else {
            link.answer("put file", stream).await.map(Some)
        };
        match answer.map_err(put)? {
            None => {}
            Some(GuestMessage::Credit(given)) => credit = credit.saturating_add(given.bytes as usize),
            Some(GuestMessage::Done(_)) if last => return Ok(()),
            Some(_) => return Err(unexpected(path)),
        }
    }
}

fn unexpected(path: &str) -> InputError {
    InputError::Put { path: path.to_owned(), source: LinkError::Unexpected { request: "put file" } }
}
