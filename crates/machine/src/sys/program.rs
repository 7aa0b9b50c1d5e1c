//! Becoming another program whose path lies at an address that is known beforehand, so that a filter can tell this
//! call of execve(2) from any other.

use std::ffi::{CString, NulError, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// A program with its arguments, ready to be executed with an empty environment.
pub(crate) struct Program {
    path: CString,
    arguments: Vec<CString>,
}

impl Program {
    /// The program's own name becomes the first argument.
    pub(crate) fn new(path: &Path, arguments: &[String]) -> Result<Self, NulError> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let rest = arguments.iter().map(|argument| CString::new(argument.as_bytes()));
        let arguments = std::iter::once(Ok(path.clone())).chain(rest).collect::<Result<_, _>>()?;
        Ok(Self { path, arguments })
    }

    /// Where the path lies, for as long as this value does.
    pub(crate) fn address(&self) -> u64 {
        u64::try_from(self.path.as_ptr().addr()).expect("an address has at most 64 bits")
    }

    /// Executes the program. Returns only when that failed.
    pub(crate) fn execute(&self) -> io::Error {
        let end = std::iter::once(ptr::null());
        let arguments: Vec<*const c_char> =
            self.arguments.iter().map(|text| text.as_ptr()).chain(end).collect();
        let environment: [*const c_char; 1] = [ptr::null()];
        // SAFETY: the path and every argument are texts that end with a zero byte and live in `self`; both lists
        // end with a null pointer. The call returns only when it changed nothing.
        unsafe { libc::execve(self.path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_path_and_stays() {
        let program = Program::new(Path::new("/nowhere/at-all"), &["-x".to_owned()]).unwrap();
        let moved = Box::new(program);
        assert_eq!(moved.address(), u64::try_from(moved.path.as_ptr().addr()).unwrap());
        assert_eq!(moved.execute().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_zero_byte_is_refused() {
        assert!(Program::new(Path::new("/x"), &["a\0b".to_owned()]).is_err());
    }
}
