//! Which CPU a guest sees and how its kernel is told to start on it.
//!
//! Both are part of a template's key. What an image adds to the command line is not decided here.

/// The CPU model that guests get under an accelerator.
pub fn cpu_model(accelerator: &str) -> &'static str {
    match accelerator {
        "kvm" => "host",
        // Emulated `rep movsb` is slow, and kernels use it for every copy where the CPU claims to be good at it:
        // without the claim a boot takes a fifth less CPU, and copies take half the time.
        _ => "max,-erms,-fsrm",
    }
}

/// The guest kernel's command line under an accelerator.
pub fn command_line(accelerator: &str) -> String {
    let mut words = vec![
        // The console is kept as evidence; a panic ends the machine through pvpanic, and, where that has no
        // driver yet, through a reboot that QEMU turns into an end.
        "console=ttyS0",
        "reboot=t",
        "panic=-1",
        "quiet",
        // One UART exists; probing for three more takes time.
        "8250.nr_uarts=1",
        // Known-answer tests of ciphers that nobody asked for.
        "cryptomgr.notests",
        // Early randomness comes from the CPU; the agent reseeds from the host before anything else runs.
        "random.trust_cpu=on",
    ];
    if accelerator != "kvm" {
        // On a busy host the kernel, measuring its TSC against a timer while its vCPU waits for a CPU of the host,
        // gets it wrong: a guest was seen whose clock ran 65 times too fast. The HPET states its own rate.
        words.extend(["clocksource=hpet", "no_timer_check"]);
    }
    words.join(" ")
}
