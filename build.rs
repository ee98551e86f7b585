//! Turns `proto/` into code. The compiler of .proto files is a library: nobody needs protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: &[&str] =
    &["esker/v1/admin.proto", "esker/v1/consumer.proto", "esker/v1/producer.proto", "esker/internal/v1/peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo says where to write")?);
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
