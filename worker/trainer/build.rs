//! Tells Cargo where libtorch lies, for the program and its tests.

fn main() {
    mtinet_libtorch::link();
}
