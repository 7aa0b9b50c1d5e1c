//! The images that outlast can build, as data.
//!
//! A recipe says which packages make the root file system, how source code is run in it and how much memory that
//! takes. How it is built stands in [`mod@super::build`]; what came out of it, in the manifest.

use super::source::Suite;
use outlast_model::Memory;

/// How to make one image.
#[derive(Debug)]
pub struct Recipe {
    /// The image's name.
    pub name: &'static str,
    /// What it is, for `image ls`.
    pub summary: &'static str,
    /// Every guest is of one distribution, whatever the host's is.
    pub suite: Suite,
    /// Packages beside the essential ones and `COMMON_PACKAGES`.
    pub packages: &'static [&'static str],
    /// Directories that only development of the runtime itself needs.
    pub unneeded: &'static [&'static str],
    /// How source code is run; `None` when only commands are.
    pub runtime: Option<RuntimeRecipe>,
    /// How much memory it needs with the distribution's kernel.
    pub stock: MemoryRecipe,
    /// How much it needs with the lean kernel.
    pub lean: MemoryRecipe,
    /// Disk that a build needs at its peak, rounded up generously: unpacked packages, their archives, the result.
    pub scratch_bytes: u64,
}

/// How much memory an image needs with one kernel, as measured.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRecipe {
    /// The smallest limit a program may be given.
    pub min_limit: Memory,
    /// The smallest machine that boots, does the warm-up and runs hello.
    pub min_machine: Memory,
    /// What kernel, agent and file systems take of any machine beside the program's limit.
    pub reserve: Memory,
    /// What they take more of a larger one: one byte for so many of the limit.
    pub reserve_share: u64,
}

/// How source code is run.
#[derive(Debug)]
pub struct RuntimeRecipe {
    /// What the source is called in the guest's working directory.
    pub file_name: &'static str,
    /// File name endings by which the runtime is chosen.
    pub extensions: &'static [&'static str],
    /// Program and leading arguments; the file's name and the user's arguments follow.
    pub command: &'static [&'static str],
    /// Environment of every program.
    pub env: &'static [&'static str],
    /// Run once before a template is saved, so that clones find the interpreter in memory.
    pub warm_up: &'static [&'static str],
}

/// What every root file system has beside Debian's essential packages: certificates and service names for programs
/// that use a network, time zones, and `ps` and `free` for people who look inside.
pub(crate) const COMMON_PACKAGES: &[&str] = &["ca-certificates", "netbase", "procps", "tzdata"];

/// The package of the kernel that lies in every image, for libraries without the lean one.
pub(crate) const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// The guest user that programs run as; the agent uses the same number.
pub const GUEST_UID: u32 = 1000;
/// The guest user's group.
pub const GUEST_GID: u32 = 1000;
/// The guest user's name.
pub const GUEST_USER: &str = "outlast";
/// The guest user's home.
pub const GUEST_HOME: &str = "/home/outlast";
/// Where a program's files are put and where it starts.
pub const GUEST_WORK: &str = "/outlast/work";
/// Where a program leaves files that come back.
pub const GUEST_OUT: &str = "/outlast/out";

const fn mib(mib: u64) -> Memory {
    match Memory::from_mib(mib) {
        Some(memory) => memory,
        None => panic!("a recipe's memory is more than zero"),
    }
}

/// Debian's cloud kernel 6.1 in a machine of 256 MiB: 38 MiB never show in MemTotal, modules take 14, slab and root file
/// system 24; the agent and its streams get the rest.
const STOCK_KERNEL_RESERVE: Memory = mib(96);
/// Page structures (1 byte in 64), page tables of the program (1 in 512), and what the kernel keeps free of a larger machine
/// (45 to 66 MiB from 512 MiB on, because of huge pages). With 1 in 16 a program that eats its limit was killed
/// by it at 64 MiB to 4 GiB; a flat reserve of 96 MiB livelocked the guest at 1 GiB.
const STOCK_KERNEL_RESERVE_SHARE: u64 = 16;

const fn with_stock_kernel(min_limit: u64, min_machine: u64) -> MemoryRecipe {
    let (reserve, reserve_share) = (STOCK_KERNEL_RESERVE, STOCK_KERNEL_RESERVE_SHARE);
    MemoryRecipe { min_limit: mib(min_limit), min_machine: mib(min_machine), reserve, reserve_share }
}

/// The lean kernel in a machine of 64 MiB: 15 MiB never show in MemTotal; kernel, agent and root file system take 21. The
/// rest is room for page cache.
const LEAN_KERNEL_RESERVE: Memory = mib(44);
/// Page structures (1 byte in 64) and page tables (1 in 512), and as much again; it keeps little free of a larger machine,
/// having no huge pages. With 1 in 32 a program that eats its limit was killed by it in the tightest machines of 64 MiB
/// to 1 GiB.
const LEAN_KERNEL_RESERVE_SHARE: u64 = 32;

const fn with_lean_kernel(min_limit: u64, min_machine: u64) -> MemoryRecipe {
    let (reserve, reserve_share) = (LEAN_KERNEL_RESERVE, LEAN_KERNEL_RESERVE_SHARE);
    MemoryRecipe { min_limit: mib(min_limit), min_machine: mib(min_machine), reserve, reserve_share }
}

/// Every recipe.
pub static RECIPES: &[Recipe] = &[
    Recipe {
        name: "base",
        summary: "Debian's essential tools, for commands",
        suite: Suite::Bookworm,
        packages: &[],
        unneeded: &[],
        runtime: None,
        stock: with_stock_kernel(64, 96),
        lean: with_lean_kernel(16, 64),
        scratch_bytes: 400 << 20,
    },
    Recipe {
        name: "python",
        summary: "Python 3 with its whole standard library",
        suite: Suite::Bookworm,
        packages: &["python3"],
        unneeded: &[],
        runtime: Some(RuntimeRecipe {
            file_name: "main.py",
            extensions: &["py"],
            command: &["python3"],
            // Unbuffered, because a line must reach its reader before the program ends. No byte code is written:
            // every start is the first one of its clone.
            env: &["PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
            warm_up: &["python3", "-c", "import json, os, random, re, subprocess, sys, time; print('warm')"],
        }),
        stock: with_stock_kernel(128, 96),
        lean: with_lean_kernel(128, 64),
        scratch_bytes: 500 << 20,
    },
    Recipe {
        name: "node",
        summary: "Node.js",
        suite: Suite::Bookworm,
        packages: &["nodejs"],
        unneeded: &[],
        runtime: Some(RuntimeRecipe {
            file_name: "main.js",
            extensions: &["js", "mjs", "cjs"],
            command: &["node"],
            env: &[],
            warm_up: &["node", "-e", "console.log('warm')"],
        }),
        stock: with_stock_kernel(256, 128),
        lean: with_lean_kernel(256, 128),
        scratch_bytes: 600 << 20,
    },
    Recipe {
        name: "go",
        summary: "Go, compiled where it runs",
        suite: Suite::Bookworm,
        packages: &["golang-go"],
        unneeded: &["usr/share/go-1.19/test", "usr/share/go-1.19/api", "usr/share/go-1.19/misc"],
        runtime: Some(RuntimeRecipe {
            file_name: "main.go",
            extensions: &["go"],
            command: &["go", "run"],
            env: &[],
            // The build cache that this fills lies in the overlay and is part of the template.
            warm_up: &[
                "sh",
                "-c",
                "d=$(mktemp -d) && cd \"$d\" && printf 'package main\\nimport \"fmt\"\\nfunc main() { \
                 fmt.Println(\"warm\") }\\n' > main.go && go run main.go; e=$?; cd / && rm -rf \"$d\"; exit $e",
            ],
        }),
        stock: with_stock_kernel(512, 192),
        lean: with_lean_kernel(512, 128),
        scratch_bytes: 1500 << 20,
    },
];

impl Recipe {
    /// The recipe of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// All names, in the order of the table.
    pub fn names() -> Vec<&'static str> {
        RECIPES.iter().map(|recipe| recipe.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_found_by_name_and_names_are_unique() {
        for recipe in RECIPES {
            assert!(std::ptr::eq(Recipe::named(recipe.name).unwrap(), recipe));
        }
        assert!(Recipe::named("vmm").is_none(), "the VMM root is not an image");
    }

    #[test]
    fn an_ending_belongs_to_one_runtime() {
        let mut endings: Vec<_> =
            RECIPES.iter().filter_map(|r| r.runtime.as_ref()).flat_map(|r| r.extensions).collect();
        let all = endings.len();
        endings.sort_unstable();
        endings.dedup();
        assert_eq!(endings.len(), all);
    }
}
