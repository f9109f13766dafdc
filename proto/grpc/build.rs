//! Compiles the .proto files with protox, so that no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/peer.proto", "proto/control.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".brickwork.peer")
        .type_attribute(".brickwork.control", "#[derive(serde::Serialize, serde::Deserialize)]")
        .compile_fds(files)?;
    Ok(())
}
