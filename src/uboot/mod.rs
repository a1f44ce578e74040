//! Owns what U-Boot loads: legacy uImages, vendor headers, boot scripts, extlinux.
//! Never knows of recipes.
