//! Owns what U-Boot loads: legacy uImages, vendor headers, boot scripts, extlinux.
//! Never knows of recipes.

pub mod ids;
pub mod script;
pub mod template;
pub mod timestamp;
pub mod uimage;
pub mod values;

pub use ids::{Comp, ImageArch, Kind, Os};
pub use template::Templates;
pub use values::Values;
