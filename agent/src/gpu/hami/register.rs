//! What the device plugin says it has made, in the annotation [`super::REGISTER_ANNOTATION`]: comma-separated up to
//! HAMi 2.7, JSON since 2.8, in which an index or NUMA node of 0 and a health of `false` are left out.

use serde::{Deserialize, Serialize};

/// Longest annotation that is read: Kubernetes takes no more of all annotations together.
const MAX_BYTES: usize = 256 * 1024;
/// Most GPUs of a node that are read.
const MAX_GPUS: usize = 256;

/// Which form the annotation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Up to HAMi 2.7.
    Csv,
    /// Since HAMi 2.8.
    Json,
}

/// One GPU as the plugin registered it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Registered {
    /// UUID.
    pub id: String,
    /// The driver's index.
    pub index: u32,
    /// Pods that share it.
    pub count: u64,
    /// Memory given away, in MiB.
    pub devmem: u64,
    /// Cores given away, in percent.
    pub devcore: u64,
    /// Model.
    #[serde(rename = "type")]
    pub model: String,
    /// NUMA node.
    pub numa: i64,
    /// `hami-core`, `mig`; empty where an old plugin does not tell.
    pub mode: String,
    /// The plugin found it well.
    pub health: bool,
}

/// Read the annotation.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<(Form, Vec<Registered>), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes; at most {MAX_BYTES} are read", text.len()));
    }
    let text = text.trim();
    let (form, gpus) = if text.starts_with('[') {
        let gpus: Vec<Registered> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        (Form::Json, gpus)
    } else {
        let devices = text.split(':').filter(|device| !device.trim().is_empty());
        (Form::Csv, devices.take(MAX_GPUS + 1).map(csv).collect::<Result<_, _>>()?)
    };
    if gpus.len() > MAX_GPUS {
        return Err(format!("more than {MAX_GPUS} GPUs"));
    }
    match gpus.iter().find(|gpu| gpu.id.is_empty()) {
        Some(_) => Err("a GPU without a UUID".to_owned()),
        None => Ok((form, gpus)),
    }
}

/// `uuid,count,devmem,devcore,type,numa,health[,index,mode]`.
fn csv(device: &str) -> Result<Registered, String> {
    let fields: Vec<&str> = device.split(',').map(str::trim).collect();
    let shown = || device.chars().take(80).collect::<String>();
    let [id, count, devmem, devcore, model, numa, health, more @ ..] = fields.as_slice() else {
        return Err(format!("`{}` has {} fields of at least 7", shown(), fields.len()));
    };
    let wrong = |what: &str| format!("`{}`: its {what} can't be read", shown());
    let number = |text: &str, what: &str| text.parse::<u64>().map_err(|_| wrong(what));
    Ok(Registered {
        id: (*id).to_owned(),
        count: number(count, "count")?,
        devmem: number(devmem, "memory")?,
        devcore: number(devcore, "share of cores")?,
        model: (*model).to_owned(),
        numa: numa.parse().map_err(|_| wrong("NUMA node"))?,
        health: health.parse().map_err(|_| wrong("health"))?,
        index: match more.first() {
            Some(index) => index.parse().map_err(|_| wrong("index"))?,
            None => 0,
        },
        mode: more.get(1).map(|mode| (*mode).to_owned()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "GPU-aaaa,10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true,0,hami-core:\
                       GPU-bbbb,10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,1,false,1,hami-core:";
    const JSON: &str = r#"[{"id":"GPU-aaaa","count":10,"devmem":32768,"devcore":100,
        "type":"NVIDIA-Tesla V100-PCIE-32GB","mode":"hami-core","health":true},
        {"id":"GPU-bbbb","index":1,"count":10,"devmem":32768,"devcore":100,"numa":1,
        "type":"NVIDIA-Tesla V100-PCIE-32GB","mode":"hami-core","devicepairscore":{}}]"#;

    #[test]
    fn both_forms_say_the_same_and_what_json_leaves_out_is_zero_and_false() {
        let ((csv_form, csv), (json_form, json)) = (parse(CSV).unwrap(), parse(JSON).unwrap());
        assert_eq!((csv_form, json_form), (Form::Csv, Form::Json));
        assert_eq!(csv, json);
        assert_eq!((json[0].index, json[0].numa, json[0].health), (0, 0, true));
        assert!(!json[1].health);
    }

    #[test]
    fn the_oldest_form_has_neither_index_nor_mode() {
        let (_, gpus) = parse("GPU-aaaa,10,32768,100,NVIDIA-Tesla V100,0,true:").unwrap();
        assert_eq!((gpus[0].index, gpus[0].mode.as_str()), (0, ""));
        assert_eq!(parse("").unwrap(), (Form::Csv, Vec::new()));
        assert_eq!(parse("[]").unwrap(), (Form::Json, Vec::new()));
    }

    #[test]
    fn what_is_cut_off_or_too_much_is_no_register() {
        let many = "GPU-a,1,1,1,T,0,true:".repeat(300);
        for text in [
            &JSON[..60],
            &CSV[..90],
            "x",
            "[1]",
            "[{}]",
            r#"[{"id":"a","count":"10"}]"#,
            &many,
            "{}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&" ".repeat(300 * 1024)).is_err());
    }

    proptest::proptest! {
        /// Whatever stands there, there is an answer; and what is a whole register is read back from any cut without a panic.
        #[test]
        fn any_text_gets_an_answer(text in "\\PC{0,200}", cut in 0_usize..200) {
            let _ = parse(&text);
            let _ = parse(&format!("[{text}"));
            let _ = parse(&format!("{}{text}", CSV.get(..cut.min(CSV.len())).unwrap_or_default()));
            let _ = parse(&format!("{}{text}", JSON.get(..cut.min(JSON.len())).unwrap_or_default()));
        }
    }
}
