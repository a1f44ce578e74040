//! Owns what U-Boot loads: legacy uImages, vendor headers, boot scripts, extlinux.
//! Never knows of recipes.

pub mod bootrom;
pub mod bootscript;
pub mod check;
pub mod ids;
pub mod read;
pub mod script;
mod stream;
pub mod template;
pub mod uimage;
pub mod values;
pub mod write;

pub use bootscript::BootScript;
pub use ids::{Comp, ImageArch, Kind, Os};
pub use stream::{Input, open};
pub use template::Templates;
pub use values::Values;
