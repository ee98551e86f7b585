//! The `esker` binary.

fn main() {
    println!("esker");
}
