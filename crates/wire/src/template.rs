//! A template's manifest: what it was made of, and the digests of its two files.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of this format that is written.
pub const VERSION: u32 = 1;

/// Everything that must be equal for a clone to be allowed. Its canonical JSON is hashed into the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateIngredients {
    /// Format version of templates; raised when the machine's devices change.
    pub generation: u32,
    /// The image's name, for people.
    pub image: String,
    /// The image's digest.
    pub image_digest: String,
    /// Digest of the initial RAM file system, which holds the agent's build.
    pub initramfs_digest: String,
    /// The guest kernel's command line.
    pub command_line: String,
    /// The backend's name.
    pub backend: String,
    /// Digest of the VMM root.
    pub vmm_digest: String,
    /// The devices of the machine, as the backend names its topology.
    pub topology: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The CPU model given to the VMM.
    pub cpu_model: String,
    /// What the host's CPU is, as far as guests can see it.
    pub host_cpu: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Machine memory in bytes.
    pub memory: u64,
    /// The warm-up's arguments.
    pub warm_up: Vec<String>,
    /// SHA-256 of the lean kernel, when it is that which boots; the image's own is part of its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lean_kernel: Option<String>,
}

/// A template's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateManifest {
    /// Format version ([`VERSION`]).
    pub version: u32,
    /// The key: lower-case hexadecimal SHA-256 of the ingredients' JSON.
    pub key: String,
    /// What it was made of.
    pub ingredients: TemplateIngredients,
    /// The incarnation that made it.
    pub made_by: String,
    /// When, in nanoseconds since the Unix epoch.
    pub made_unix_ns: u64,
    /// SHA-256 of the memory file.
    pub memory_sha256: String,
    /// SHA-256 of the device state.
    pub state_sha256: String,
    /// Size of the device state in bytes.
    pub state_bytes: u64,
}

/// Bytes are not a template's manifest.
#[derive(Debug, Error)]
pub enum TemplateManifestError {
    /// Not the JSON that was expected.
    #[error("it does not parse")]
    Json(#[from] serde_json::Error),
    /// Written by another outlast: of a template, unlike of an image, only one format is ever of use.
    #[error("format {0}")]
    Version(u32),
}

impl TemplateManifest {
    /// Reads the JSON of a manifest. Whether its key is that of its ingredients is the reader's question.
    ///
    /// # Errors
    /// [`TemplateManifestError`] says what it is instead.
    pub fn parse(json: &[u8]) -> Result<Self, TemplateManifestError> {
        /// Read first: another format need not parse as ours.
        #[derive(Deserialize)]
        struct Format {
            version: u32,
        }
        let Format { version } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(TemplateManifestError::Version(version));
        }
        Ok(serde_json::from_slice(json)?)
    }
}
