//! Owns the headers that boot ROMs require before a first-stage loader. Never writes a uImage.

pub mod egon;
pub mod gp;
pub mod omap;

use crate::error::Fault;

/// The data's size as a header holds it.
fn size_field(size: u64, name: &str) -> Result<u32, Fault> {
    u32::try_from(size).map_err(|_| {
        Fault::input(format!(
            "{name} is too large: the header counts its bytes in 32 bits"
        ))
    })
}

/// TI's boot ROMs treat a load address of 0 as a missing image.
fn check_load(load: u32, kind: &str) -> Result<(), Fault> {
    if load == 0 {
        return Err(
            Fault::input(format!("an image of type {kind} needs a load address"))
                .remedy("give it with -a, in hexadecimal"),
        );
    }
    Ok(())
}
