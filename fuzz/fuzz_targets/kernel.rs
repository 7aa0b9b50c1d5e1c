//! Kernels that people hand in: ELF files and bzImages. The input is tried as an ELF file, as a bzImage, and packed
//! into a bzImage as a kernel's build would pack it, out of which it must come as it went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_machine::image::bzimage::{BzImageError, vmlinux};
use outlast_machine::image::elf::Elf;

/// Blocks of LZ4's legacy frame are smaller than this.
const BLOCK: usize = 8 << 20;

fuzz_target!(|bytes: &[u8]| {
    let offers_pvh = Elf::parse(bytes).map(|elf| {
        let within = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr()) || part.is_empty();
        assert!(elf.section(".modinfo").is_none_or(within));
        for value in elf.modinfo("depends") {
            assert!(within(value.as_bytes()) && !value.contains('\0'));
        }
        let _ = elf.is_dynamic();
        elf.offers_pvh()
    });
    if let Ok(kernel) = vmlinux(bytes) {
        assert!(Elf::parse(&kernel).is_ok_and(|elf| elf.offers_pvh()));
        // LZ4 cannot pack better than 255 to 1.
        assert!(kernel.len() <= bytes.len() * 256);
    }
    match (vmlinux(&bzimage(bytes)), offers_pvh) {
        (Ok(kernel), Ok(true)) => assert_eq!(kernel, bytes),
        (Err(BzImageError::NoPvh), Ok(false)) => {}
        (Err(BzImageError::Elf(inner)), Err(outer)) => assert_eq!(inner, outer),
        (packed, plain) => panic!("packed it is {packed:?}, unpacked {plain:?}"),
    }
});

/// A bzImage as a kernel build would make it of an ELF file.
fn bzimage(elf: &[u8]) -> Vec<u8> {
    let mut payload = 0x184C_2102u32.to_le_bytes().to_vec();
    for chunk in elf.chunks(BLOCK) {
        let block = lz4_flex::block::compress(chunk);
        payload.extend(length(&block));
        payload.extend(block);
    }
    payload.extend(length(elf));
    let mut image = vec![0; 3 * 512];
    image[0x1f1] = 2;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&length(&payload));
    image.extend(payload);
    image
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("inputs are small").to_le_bytes()
}
