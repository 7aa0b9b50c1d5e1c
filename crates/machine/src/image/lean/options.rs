//! The kernel's options: what was asked for, and which of it did not come true.
//!
//! `make olddefconfig` drops, without a word, an option that is misspelt, that another version calls otherwise or
//! whose dependencies are not met. A guest that lacks one fails much later and far away, so the build compares.

use std::collections::BTreeMap;

/// The options that guests are built with, in the form of a kernel's configuration.
pub(super) const WISHES: &str = include_str!("kernel.config");

/// One wish that did not come true: the line as asked for, and what the option is instead.
pub(super) fn unfulfilled(wishes: &str, config: &str) -> Vec<String> {
    let made: BTreeMap<_, _> = config.lines().filter_map(setting).collect();
    let instead = |value: Option<&&str>| value.map_or("not set".to_owned(), |value| format!("'{value}'"));
    let missing = wishes.lines().filter_map(setting).filter_map(|(name, wanted)| {
        let found = made.get(name).filter(|value| **value != OFF);
        let fulfilled = found.copied().unwrap_or(OFF) == wanted;
        (!fulfilled).then(|| match wanted {
            OFF => format!("{name} should be off and is {}", instead(found)),
            _ => format!("{name}={wanted} is {}", instead(found)),
        })
    });
    missing.collect()
}

/// What an option is when a configuration says that it is not set, or does not mention it.
const OFF: &str = "n";

/// `CONFIG_A=y` → (`CONFIG_A`, `y`); `# CONFIG_A is not set` → (`CONFIG_A`, [`OFF`]); anything else is a comment.
fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let is_name = |name: &str| {
        let rest = name.strip_prefix("CONFIG_").unwrap_or_default();
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let off = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set"));
    let pair = off.map(|name| (name, OFF)).or_else(|| line.split_once('='));
    pair.filter(|(name, _)| is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_did_not_come_true_is_named() {
        let wishes =
            "# a comment\nCONFIG_A=y\nCONFIG_B=\"text\"\n# CONFIG_C is not set\nCONFIG_D=64\nCONFIG_E=y\n";
        let made =
            "CONFIG_A=y\nCONFIG_B=\"text\"\n# CONFIG_C is not set\nCONFIG_D=64\nCONFIG_E=y\nCONFIG_F=y\n";
        assert_eq!(unfulfilled(wishes, made), Vec::<String>::new());
        let made = "# CONFIG_A is not set\nCONFIG_B=\"other\"\nCONFIG_C=y\nCONFIG_D=8\n";
        let expected = [
            "CONFIG_A=y is not set",
            "CONFIG_B=\"text\" is '\"other\"'",
            "CONFIG_C should be off and is 'y'",
            "CONFIG_D=64 is '8'",
            "CONFIG_E=y is not set",
        ];
        assert_eq!(unfulfilled(wishes, made), expected);
    }

    #[test]
    fn a_module_is_not_what_was_asked_for() {
        assert_eq!(unfulfilled("CONFIG_A=y", "CONFIG_A=m").len(), 1);
    }

    #[test]
    fn our_own_wishes_are_each_made_once_and_ask_for_no_module() {
        let mut names: Vec<_> = WISHES.lines().filter_map(setting).collect();
        assert!(names.len() > 150 && names.iter().all(|(_, value)| *value != "m"));
        names.sort_unstable();
        let all = names.len();
        names.dedup_by_key(|(name, _)| *name);
        assert_eq!(names.len(), all);
        let lines = WISHES.lines().filter(|line| line.contains("CONFIG_"));
        assert_eq!(lines.count(), all, "a line that names an option is one that is understood");
    }

    /// What guests cannot do without: the agent, its link, its disks, and the promises made for programs.
    #[test]
    fn what_guests_need_is_asked_for() {
        for name in [
            "VIRTIO_CONSOLE",
            "VIRTIO_BLK",
            "VIRTIO_PCI",
            "SQUASHFS_ZSTD",
            "OVERLAY_FS",
            "TMPFS_XATTR",
            "EXT4_FS",
            "MEMCG",
            "CGROUP_PIDS",
            "PVPANIC_PCI",
            "HPET_TIMER",
            "RTC_DRV_CMOS",
            "PVH",
            "SECCOMP_FILTER",
            "STRICT_KERNEL_RWX",
            "HARDENED_USERCOPY",
            "CPU_MITIGATIONS",
            "PAGE_TABLE_ISOLATION",
            "RETPOLINE",
        ] {
            assert!(WISHES.contains(&format!("\nCONFIG_{name}=y\n")), "{name}");
        }
        for name in ["MODULES", "DEVMEM", "KEXEC", "KEXEC_FILE", "BPF_SYSCALL", "USERFAULTFD"] {
            assert!(WISHES.contains(&format!("\n# CONFIG_{name} is not set\n")), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_compared_with_itself(text in "(CONFIG_[A-C]=(y|\"x\")\n|# CONFIG_[D-F] is not set\n|.{0,9}\n){0,9}") {
            let mut seen = BTreeSet::new();
            let new = |line: &&str| setting(line).is_none_or(|(name, _)| seen.insert(name.to_owned()));
            let once = text.lines().filter(new).collect::<Vec<_>>().join("\n");
            prop_assert_eq!(unfulfilled(&once, &once), Vec::<String>::new());
        }
    }
}
