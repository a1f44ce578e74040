//! Owns the Debian archive client: releases and their signatures, indices, version order, resolver, downloads, `.deb` files.
//! Never knows what a root file system is.
