//! The thin edge of a module: files and programs of the machine that it runs on. Decides nothing and knows no product.

pub mod file;
pub mod program;
