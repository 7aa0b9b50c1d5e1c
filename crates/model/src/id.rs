//! Ids: ULIDs with a role, so that one kind is never taken for another.
//!
//! Time and randomness come from the caller. Written in lower case; read in either.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use ulid::Ulid;

/// A text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not an id (26 letters and digits expected)")]
pub struct IdError {
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// An id from the time in milliseconds since the Unix epoch and 80 random bits (higher ones are ignored).
            pub fn from_parts(unix_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(unix_ms, random))
            }

            /// The 128 bits.
            pub fn bits(self) -> u128 {
                self.0.0
            }

            /// When it was made, in milliseconds since the Unix epoch, as its maker's clock said.
            pub fn unix_ms(self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                let text = self.0.array_to_str(&mut buffer);
                text.make_ascii_lowercase();
                out.pad(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                // A ULID holds 128 bits in 26 digits of 5: a first digit over 7 would overflow unnoticed.
                let overflow = text.as_bytes().first().is_none_or(|digit| !(b'0'..=b'7').contains(digit));
                match Ulid::from_string(text) {
                    Ok(id) if !overflow => Ok(Self(id)),
                    _ => Err(IdError { text: text.chars().take(40).collect() }),
                }
            }
        }
    };
}

id!(
    /// Names one workload for ever.
    WorkloadId
);
id!(
    /// Names one VM for ever, beyond its removal: its name may be given to another.
    VmId
);
id!(
    /// Names one snapshot of a VM for ever: its name may be given to another.
    SnapshotId
);
id!(
    /// Names one boot or clone; every host resource of it carries this name.
    IncarnationId
);
id!(
    /// Names one store, so that sweeps touch only names of their own.
    StoreId
);

impl IncarnationId {
    /// The guest's host name: `o-` and the random half of the id, an RFC 1123 label.
    pub fn host_name(self) -> String {
        let text = self.to_string();
        format!("o-{}", &text[10..])
    }

    /// The guest's machine id: 32 lower-case hexadecimal digits (machine-id(5)), never all zero.
    pub fn machine_id(self) -> String {
        machine_id(self.bits())
    }
}

impl VmId {
    /// The guest's machine id: the same in all incarnations of one VM, as on a computer that is switched off and on.
    pub fn machine_id(self) -> String {
        machine_id(self.bits())
    }
}

fn machine_id(bits: u128) -> String {
    format!("{:032x}", bits.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_being_written_and_read(ms in 0u64..(1 << 48), random: u128) {
            let id = WorkloadId::from_parts(ms, random);
            prop_assert_eq!(id.to_string().parse::<WorkloadId>().unwrap(), id);
            prop_assert_eq!(id.to_string().to_uppercase().parse::<WorkloadId>().unwrap(), id);
            prop_assert_eq!(id.unix_ms(), ms);
        }

        #[test]
        fn ids_sort_by_time(a in 0u64..(1 << 48), b in 0u64..(1 << 48), x: u128, y: u128) {
            prop_assume!(a < b);
            let (first, second) = (IncarnationId::from_parts(a, x), IncarnationId::from_parts(b, y));
            prop_assert!(first < second && first.to_string() < second.to_string());
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<WorkloadId>();
        }
    }

    #[test]
    fn an_id_too_large_for_128_bits_is_refused() {
        assert!("8zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<WorkloadId>().is_err());
    }

    #[test]
    fn a_host_name_is_a_label() {
        let name = IncarnationId::from_parts(1_700_000_000_000, 42).host_name();
        assert!(
            name.len() <= 63
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        );
    }
}
