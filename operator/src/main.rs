//! `quorumkv-operator run | local | crd`.

fn main() -> anyhow::Result<()> {
    print!("{}", quorumkv_operator::crd::definition_yaml()?);
    Ok(())
}
