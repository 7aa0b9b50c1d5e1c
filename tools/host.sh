# shellcheck shell=bash
# What outlast needs of a host, in one place. Sourced by quickstart, check and bench, which set $root; does nothing
# by itself.
#
# Everything here says on standard error what it does; standard output belongs to the script.

# Debian 12, Debian 13 and Ubuntu 24.04 all have these. QEMU is not among them: it lives in the VMM root.
readonly packages=(
    build-essential        # links the binaries, compiles SQLite
    ca-certificates        # crates and packages come over https
    mmdebstrap             # unpacks images and the VMM root
    squashfs-tools         # packs root file systems
    debian-archive-keyring # guests are Debian on every host; Ubuntu does not know Debian's keys
)
# What only the tests need.
readonly check_packages=(
    python3  # tampers with databases
    iproute2 # plants taps, veths and bridges for the inventory to find
    nftables # plants rules, and lists them
)
readonly rust_wanted=1.85

# The same place cargo uses (.cargo/config.toml fixes the target).
readonly release=$root/target/x86_64-unknown-linux-gnu/release
# Cargo's subcommands that check needs are installed here, not into anybody's home.
readonly tools=$root/target/tools
export PATH="$tools/bin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# at_least HAVE WANTED: compares versions.
at_least() { [[ $(printf '%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

rust_version() { rustc --version 2>/dev/null | cut -d' ' -f2; }

need_root() { ((EUID == 0)) || { say "not root: virtual machines need namespaces and cgroups; use sudo -E $0"; return 1; }; }

need_rust() {
    at_least "$(rust_version || true)" "$rust_wanted" && return
    say "Rust >= $rust_wanted is needed (found: $(rust_version || echo none)); install it from https://rustup.rs"
    return 1
}

# need_packages [MORE...]: installs the packages that are missing, and only those.
need_packages() {
    local missing=() package
    for package in "${packages[@]}" "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    need_root &&
        apt-get update -q >&2 </dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 </dev/null &&
        return
    say "could not install them; by hand: apt-get install ${missing[*]}"
    return 1
}

# The three programs. Cargo's own progress goes to standard error.
build_release() { (cd "$root" && cargo build --release --locked -p outlast -p outlast-runner -p outlast-agent); }

# need_image NAME...: builds what is not there, not whole, or stale: its recipe has changed since.
need_image() {
    local image
    [[ -x $release/outlast ]] || { say "outlast is not built"; return 1; }
    for image in "$@"; do
        "$release/outlast" image verify --json "$image" </dev/null 2>/dev/null | grep -q '"state": "ready"' && continue
        say "building image $image"
        "$release/outlast" image build "$image" </dev/null >&2 || return 1
    done
}
