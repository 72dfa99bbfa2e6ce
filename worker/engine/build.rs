//! Tells Cargo where libtorch lies, for this crate's tests.

fn main() {
    mtinet_libtorch::link();
}
