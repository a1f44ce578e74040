//! Owns the forms in which a kernel is given, and what one says of itself: its release and its configuration.
//! Never decides where a kernel comes from.
//!
//! Formats: Documentation/arch/arm64/booting.rst and arch/arm/boot/compressed/head.S of Linux (`Image`, `zImage`),
//! drivers/firmware/efi/libstub/zboot-header.S (EFI zboot), include/image.h of U-Boot (legacy uImage).

use std::io::Read;

use anyhow::{Result, bail};
use memchr::memmem;

use super::unpack::{self, Packing};
use crate::arch::Arch;
use crate::error::Fault;
use crate::recipe::ImageKind;

/// No kernel is nearly as large, in bytes, packed or not.
pub const LARGEST: u64 = 512 << 20;

/// Where 32-bit ARM's zImage has its magic number, and what that is.
const ZIMAGE: (usize, [u8; 4]) = (0x24, 0x016f_2818_u32.to_le_bytes());
const ARM64: (usize, [u8; 4]) = (0x38, *b"ARM\x64");
const RISCV: (usize, [u8; 4]) = (0x38, *b"RSC\x05");
const X86: (usize, [u8; 4]) = (0x202, *b"HdrS");
const UIMAGE: [u8; 4] = 0x2705_1956_u32.to_be_bytes();
const UIMAGE_HEADER: usize = 64;
/// The type of a uImage that holds a kernel.
const UIMAGE_KERNEL: u8 = 2;
const DEVICE_TREE: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();
/// How often a kernel may be wrapped: a uImage of an Image.gz is twice.
const MOST_WRAPPINGS: usize = 4;

/// A kernel in the form that U-Boot's boot command takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    pub data: Vec<u8>,
    pub about: About,
}

/// What a kernel says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// As `uname -r` prints it; `None` if it is packed in a way that cannot be unpacked here.
    pub release: Option<String>,
    /// Its configuration, if it was built with CONFIG_IKCONFIG.
    pub config: Option<String>,
}

/// Takes a kernel out of its wrappings, for a board of this architecture whose boot command takes `kind`.
///
/// # Errors
/// A sentence without the file's name, which the caller adds: if it is no kernel, one of another architecture, or in a form that the
/// board's U-Boot does not take.
pub fn read(data: Vec<u8>, arch: Arch, kind: ImageKind) -> Result<KernelImage> {
    let mut data = data;
    for _ in 0..MOST_WRAPPINGS {
        if kind == ImageKind::UImage && data.starts_with(&UIMAGE) {
            let about = about(uimage_payload(&data)?);
            return Ok(KernelImage { data, about });
        }
        if let Some(found) = bootable(&data) {
            if found != (arch, kind) && !(found.1 == kind && is_32_bit(found.0) && is_32_bit(arch))
            {
                return Err(wrong_form(found, arch, kind));
            }
            let about = about(&data);
            return Ok(KernelImage { data, about });
        }
        data = unwrap(data)?;
    }
    bail!(Fault::input("it is packed too many times"))
}

fn is_32_bit(arch: Arch) -> bool {
    matches!(arch, Arch::Armel | Arch::Armhf)
}

/// The architecture and form of a kernel that is not wrapped.
fn bootable(data: &[u8]) -> Option<(Arch, ImageKind)> {
    let has = |(at, magic): (usize, [u8; 4])| data.get(at..at + 4) == Some(&magic);
    if has(ZIMAGE) {
        return Some((Arch::Armhf, ImageKind::ZImage));
    }
    let is_zboot = data.get(4..8) == Some(b"zimg");
    let flat = [(ARM64, Arch::Arm64), (RISCV, Arch::Riscv64)];
    let (_, arch) = flat
        .into_iter()
        .find(|(magic, _)| has(*magic) && !is_zboot)?;
    Some((arch, ImageKind::Image))
}

fn wrong_form(found: (Arch, ImageKind), arch: Arch, kind: ImageKind) -> anyhow::Error {
    let name = |arch| {
        if is_32_bit(arch) {
            "32-bit ARM"
        } else {
            arch.debian()
        }
    };
    if is_32_bit(found.0) != is_32_bit(arch) || (!is_32_bit(arch) && found.0 != arch) {
        return Fault::input(format!(
            "it is a kernel for {}, but the board is {}",
            name(found.0),
            name(arch)
        ))
        .remedy("give a kernel of the board's architecture: ARCH=… when it is built")
        .into();
    }
    let (form, wanted) = (form_name(found.1), form_name(kind));
    Fault::input(format!(
        "it is a {form}, but the board's U-Boot boots a {wanted}"
    ))
    .remedy(format!("build it as one: make {wanted}"))
    .into()
}

fn form_name(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::ZImage => "zImage",
        ImageKind::Image => "Image",
        ImageKind::UImage => "uImage",
    }
}

/// What is inside a wrapping.
fn unwrap(data: Vec<u8>) -> Result<Vec<u8>> {
    if data.starts_with(&UIMAGE) {
        let packing = data.get(31).copied().unwrap_or_default();
        let payload = uimage_payload(&data)?;
        return Ok(match packing {
            0 => payload.to_vec(),
            _ => unpacked(payload)?,
        });
    }
    if data.starts_with(b"MZ") && data.get(4..8) == Some(b"zimg") {
        let word = |at: usize| {
            let bytes = data.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(bytes)).ok()
        };
        let payload = word(8)
            .zip(word(12))
            .and_then(|(start, length)| data.get(start..start.checked_add(length)?));
        return match payload {
            Some(payload) => unpacked(payload),
            None => Err(truncated()),
        };
    }
    if Packing::of(&data).is_some() {
        return unpacked(&data);
    }
    Err(no_kernel(&data))
}

fn unpacked(data: &[u8]) -> Result<Vec<u8>> {
    let Some(packing) = Packing::of(data) else {
        bail!(Fault::input(
            "it is packed in a way that is none of gzip, xz, lzma, lz4 and zstd"
        ));
    };
    unpack::all(packing, data, LARGEST).map_err(|error| {
        error.context(Fault::input(
            "it is damaged or truncated: it cannot be unpacked",
        ))
    })
}

/// The data of a uImage that holds a kernel.
fn uimage_payload(data: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = data.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    if data.get(30).is_some_and(|kind| *kind != UIMAGE_KERNEL) {
        bail!(Fault::input("it is a uImage, but not of a kernel"));
    }
    let size = word(12).and_then(|size| usize::try_from(size).ok());
    let payload = size.and_then(|size| data.get(UIMAGE_HEADER..UIMAGE_HEADER.checked_add(size)?));
    let Some(payload) = payload else {
        return Err(truncated());
    };
    if word(24) != Some(crc32fast::hash(payload)) {
        bail!(Fault::input(
            "it is a damaged uImage: its checksum is another"
        ));
    }
    Ok(payload)
}

fn truncated() -> anyhow::Error {
    Fault::input("it is truncated").into()
}

fn no_kernel(data: &[u8]) -> anyhow::Error {
    let x86 = data.get(X86.0..X86.0 + 4) == Some(&X86.1);
    let (sentence, remedy) = match data {
        [] => ("it is empty", "build the kernel again"),
        [0x7f, b'E', b'L', b'F', ..] => (
            "it is an ELF file such as vmlinux, which U-Boot does not boot",
            "give the image that the kernel's build makes of it, arch/arm/boot/zImage or arch/arm64/boot/Image, or the \
             kernel's tree",
        ),
        _ if data.starts_with(&DEVICE_TREE) => (
            "it is a device tree or a FIT image, not a kernel",
            "give the kernel with --kernel, and a device tree with --dtb",
        ),
        _ if x86 => (
            "it is a kernel for x86",
            "give one of the board's architecture: ARCH=… when it is built",
        ),
        _ if data.starts_with(b"!<arch>\n") => (
            "it is a Debian package that cannot be read",
            "give it under a name that ends in .deb",
        ),
        _ => (
            "it is no kernel that hearth knows: no zImage, Image, Image.gz or uImage",
            "give one of these, a kernel's tree, a kernel package, or what `make tarzst-pkg` made",
        ),
    };
    Fault::input(sentence).remedy(remedy).into()
}

/// What the kernel says of itself, after it was unpacked if it unpacks itself.
fn about(data: &[u8]) -> About {
    let told = told(data);
    if told.release.is_some() {
        return told;
    }
    self::unpack::inside(data, LARGEST, |plain| release(plain).is_some())
        .map(|plain| self::told(&plain))
        .unwrap_or_default()
}

fn told(plain: &[u8]) -> About {
    About {
        release: release(plain),
        config: configuration(plain),
    }
}

/// The word after `Linux version ` in the banner (init/version.c), which is followed by who built it.
fn release(plain: &[u8]) -> Option<String> {
    const START: &[u8] = b"Linux version ";
    memmem::find_iter(plain, START).find_map(|at| {
        let rest = plain.get(at + START.len()..)?;
        let end = rest.iter().take(256).position(|byte| *byte == b' ')?;
        let word = std::str::from_utf8(&rest[..end]).ok()?;
        let is_release = is_release(word) && rest.get(end + 1) == Some(&b'(');
        is_release.then(|| word.to_string())
    })
}

/// Whether this can be a kernel's release, which is a directory's name on the board.
pub fn is_release(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.len() < 65
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-_.~".contains(c))
}

/// The configuration that CONFIG_IKCONFIG builds in (kernel/configs.c).
fn configuration(plain: &[u8]) -> Option<String> {
    let start = memmem::find(plain, b"IKCFG_ST\x1f\x8b")? + b"IKCFG_ST".len();
    let mut text = String::new();
    let packed = flate2::read::GzDecoder::new(&plain[start..]);
    packed.take(4 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn zimage() -> Vec<u8> {
        let mut data = vec![0; 0x40];
        data[0x24..0x28].copy_from_slice(&ZIMAGE.1);
        data
    }

    fn gzipped(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn image64() -> Vec<u8> {
        let mut data = vec![0; 0x40];
        data[0x38..0x3c].copy_from_slice(&ARM64.1);
        data.extend(b"Linux version %s (%s)\0Linux version 6.1.2-x+ (me@here) (gcc) #1 SMP\n");
        data
    }

    fn uimage(payload: &[u8], packing: u8) -> Vec<u8> {
        let mut data = vec![0; 64];
        data[..4].copy_from_slice(&UIMAGE);
        data[12..16].copy_from_slice(&(payload.len() as u32).to_be_bytes());
        data[24..28].copy_from_slice(&crc32fast::hash(payload).to_be_bytes());
        data[30] = UIMAGE_KERNEL;
        data[31] = packing;
        data.extend(payload);
        data
    }

    fn refusal(data: &[u8], arch: Arch, kind: ImageKind) -> String {
        read(data.to_vec(), arch, kind).unwrap_err().to_string()
    }

    #[test]
    fn a_kernel_comes_out_of_its_wrappings_and_tells_its_release() {
        let plain = image64();
        for wrapped in [
            plain.clone(),
            gzipped(&plain),
            zstd::encode_all(&plain[..], 1).unwrap(),
            uimage(&plain, 0),
            uimage(&gzipped(&plain), 1),
        ] {
            let kernel = read(wrapped, Arch::Arm64, ImageKind::Image).unwrap();
            assert_eq!(kernel.data, plain);
            assert_eq!(kernel.about.release.as_deref(), Some("6.1.2-x+"));
        }
        let mut packed = zimage();
        packed.extend(gzipped(b"xLinux version 6.1.3 (me)\0IKCFG_ST"));
        let kernel = read(packed.clone(), Arch::Armhf, ImageKind::ZImage).unwrap();
        assert_eq!(kernel.data, packed);
        assert_eq!(kernel.about.release.as_deref(), Some("6.1.3"));
        assert_eq!(kernel.about.config, None);
    }

    #[test]
    fn a_built_in_configuration_is_found() {
        let mut plain = b"Linux version 6.1.3 (me)\0IKCFG_ST".to_vec();
        plain.extend(gzipped(b"CONFIG_NFS_FS=y\n"));
        let mut kernel = zimage();
        kernel.extend(gzipped(&plain));
        let about = read(kernel, Arch::Armel, ImageKind::ZImage).unwrap().about;
        assert_eq!(about.config.as_deref(), Some("CONFIG_NFS_FS=y\n"));
    }

    #[test]
    fn what_does_not_boot_is_refused_with_its_reason() {
        let (arm, form) = (Arch::Armhf, ImageKind::ZImage);
        for (data, reason) in [
            (b"\x7fELF\x01\x01".to_vec(), "vmlinux"),
            (Vec::new(), "is empty"),
            (vec![7; 100], "is no kernel"),
            (DEVICE_TREE.to_vec(), "device tree"),
            (
                image64(),
                "is a kernel for arm64, but the board is 32-bit ARM",
            ),
            (gzipped(&image64())[..60].to_vec(), "truncated"),
            (uimage(&zimage(), 0)[..80].to_vec(), "truncated"),
        ] {
            let told = refusal(&data, arm, form);
            assert!(told.contains(reason), "{told}");
        }
        let mut damaged = uimage(&zimage(), 0);
        *damaged.last_mut().unwrap() = 1;
        assert!(refusal(&damaged, arm, form).contains("checksum"));
        assert!(refusal(&zimage(), Arch::Arm64, ImageKind::Image).contains("for 32-bit ARM"));
        assert!(refusal(&zimage(), arm, ImageKind::UImage).contains("boots a uImage"));
    }

    #[test]
    fn a_release_is_a_name_of_a_directory() {
        assert!(is_release("6.1.0-50-armmp") && is_release("6.12.0+"));
        for word in ["", "..", "%s", "6/1", "a", "6 1"] {
            assert!(!is_release(word), "{word}");
        }
    }
}
