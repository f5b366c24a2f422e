//! Builds plugins from WebAssembly text, healthy ones and hostile ones.

use std::fmt::Write;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const TEMPLATE: &str = include_str!("../../../tests/guests/guest.wat");
const CONTRACT: &str = include_str!("../../../wit/1.0.0/connector.wit");
const NEWEST_CONTRACT: &str = include_str!("../../../wit/1.1.0/connector.wit");

/// Where the template places its parts.
const TEXTS_AT: u32 = 1024;
const HEAP_AT: u32 = 4096;
const EVENTS_AT: u32 = 65536;

/// A plugin to be built. Function bodies are WebAssembly text; the defaults behave correctly.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) slug: String,
    pub(crate) version: String,
    pub(crate) unproven_status: u16,
    pub(crate) unavailable_status: u16,
    pub(crate) hosts: Vec<String>,
    /// Name of the secret that operators can configure.
    pub(crate) secret: Option<&'static str>,
    /// Name of the setting that operators can configure.
    pub(crate) setting: Option<&'static str>,
    /// Number of events that `normalize` returns, all of zeros.
    pub(crate) events: u32,
    /// Version of the contract that it is built for.
    pub(crate) contract: &'static str,
    /// An interface that the world imports besides the contract's, as WIT text, and its import in the module.
    pub(crate) wants: Option<(&'static str, &'static str)>,
    /// Interfaces of other packages that the world imports.
    pub(crate) foreign: Vec<Foreign>,
    pub(crate) memory: &'static str,
    pub(crate) items: String,
    pub(crate) realloc: String,
    pub(crate) describe: String,
    pub(crate) authenticate: String,
    pub(crate) normalize: String,
}

/// An interface of another package, and what the module imports from it.
#[derive(Clone)]
pub(crate) struct Foreign {
    /// Its name with package and version.
    pub(crate) name: &'static str,
    /// The package as WIT text.
    pub(crate) package: &'static str,
    /// The imports, as WebAssembly text.
    pub(crate) imports: &'static str,
}

/// Returns a healthy plugin.
pub(crate) fn guest(slug: &str) -> Guest {
    Guest {
        slug: slug.to_owned(),
        version: "1.0.0".to_owned(),
        unproven_status: 401,
        unavailable_status: 503,
        hosts: Vec::new(),
        secret: None,
        setting: None,
        events: 1,
        contract: "1.0.0",
        wants: None,
        foreign: Vec::new(),
        memory: "2",
        items: String::new(),
        realloc: BUMP.to_owned(),
        describe: "i32.const 64".to_owned(),
        authenticate: "i32.const 512".to_owned(),
        normalize: "i32.const 768".to_owned(),
    }
}

/// Allocates memory from `$free` upwards, and grows it when it is used up.
pub(crate) const BUMP: &str = "
    (local $start i32)
    (local.set $start
      (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $start) (local.get $size)))
    (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
      (then
        (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536)))))))
    (local.get $start)";

impl Guest {
    pub(crate) fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    pub(crate) fn authenticate(mut self, body: &str) -> Self {
        body.clone_into(&mut self.authenticate);
        self
    }

    pub(crate) fn normalize(mut self, body: &str) -> Self {
        body.clone_into(&mut self.normalize);
        self
    }

    pub(crate) fn describe(mut self, body: &str) -> Self {
        body.clone_into(&mut self.describe);
        self
    }

    pub(crate) fn realloc(mut self, body: &str) -> Self {
        body.clone_into(&mut self.realloc);
        self
    }

    pub(crate) fn memory(mut self, limits: &'static str) -> Self {
        self.memory = limits;
        self
    }

    pub(crate) fn events(mut self, events: u32) -> Self {
        self.events = events;
        self
    }

    pub(crate) fn items(mut self, items: &str) -> Self {
        items.clone_into(&mut self.items);
        self
    }

    /// Builds the plugin as a component.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut texts = String::new();
        let mut place = |text: &str| {
            let at = TEXTS_AT + u32::try_from(texts.len()).unwrap();
            texts.push_str(text);
            (at, u32::try_from(text.len()).unwrap())
        };
        let strings = [
            place(&self.slug),
            place("Test"),
            place(&self.version),
            place("https://docs.test/"),
        ];
        let secret = self.secret.map(&mut place);
        let setting = self.setting.map(&mut place);
        let hosts: Vec<(u32, u32)> = self.hosts.iter().map(|host| place(host)).collect();
        // The table of hosts, appended to the texts, aligned.
        while !texts.len().is_multiple_of(4) {
            texts.push(' ');
        }
        let hosts_at = TEXTS_AT + u32::try_from(texts.len()).unwrap();
        let mut text_bytes = texts.into_bytes();
        for (at, length) in &hosts {
            text_bytes.extend(at.to_le_bytes());
            text_bytes.extend(length.to_le_bytes());
        }
        let mut place_spec = |spec: Option<(u32, u32)>| {
            let spec_at = TEXTS_AT + u32::try_from(text_bytes.len()).unwrap();
            if let Some((at, length)) = spec {
                // Its name, which is also its summary, and a zero: it is not required.
                for _ in 0..2 {
                    text_bytes.extend(at.to_le_bytes());
                    text_bytes.extend(length.to_le_bytes());
                }
                text_bytes.extend([0; 4]);
            }
            (spec_at, u32::from(spec.is_some()))
        };
        let specs = [place_spec(secret), place_spec(setting)];
        assert!(text_bytes.len() < usize::try_from(HEAP_AT - TEXTS_AT).unwrap());

        let mut descriptor = Vec::new();
        for (at, length) in strings {
            descriptor.extend(at.to_le_bytes());
            descriptor.extend(length.to_le_bytes());
        }
        for (at, count) in specs {
            descriptor.extend(at.to_le_bytes());
            descriptor.extend(count.to_le_bytes());
        }
        descriptor.extend(hosts_at.to_le_bytes());
        descriptor.extend(u32::try_from(hosts.len()).unwrap().to_le_bytes());
        for status in [self.unproven_status, 400, self.unavailable_status] {
            descriptor.extend(status.to_le_bytes());
        }
        // `ok`, `events`, the list.
        let mut batch = vec![0; 8];
        batch.extend(EVENTS_AT.to_le_bytes());
        batch.extend(self.events.to_le_bytes());

        let (interface, import) = self.wants.unwrap_or_default();
        let mut imports = import.to_owned();
        for foreign in &self.foreign {
            imports.push_str(foreign.imports);
        }
        let module = TEMPLATE
            .replace("{contract}", self.contract)
            .replace("{imports}", &imports)
            .replace("{memory}", self.memory)
            .replace("{items}", &self.items)
            .replace("{descriptor}", &escaped(&descriptor))
            .replace("{batch}", &escaped(&batch))
            .replace("{texts}", &escaped(&text_bytes))
            .replace("{realloc}", &self.realloc)
            .replace("{describe}", &self.describe)
            .replace("{authenticate}", &self.authenticate)
            .replace("{normalize}", &self.normalize);
        let mut module = wat::parse_str(&module).unwrap_or_else(|error| panic!("{error}\n{module}"));

        let mut contract = match self.contract {
            "1.1.0" => NEWEST_CONTRACT.to_owned(),
            other => CONTRACT.replace("@1.0.0", &format!("@{other}")),
        };
        if self.wants.is_some() {
            contract.push_str(interface);
            contract = contract.replace("import logging;", "import logging;\n    import wanted;");
        }
        let mut resolve = Resolve::default();
        for foreign in &self.foreign {
            resolve.push_source("foreign.wit", foreign.package).unwrap();
            let import = format!("import logging;\n    import {};", foreign.name);
            contract = contract.replace("import logging;", &import);
        }
        let package = resolve.push_source("connector.wit", &contract).unwrap();
        let world = resolve.select_world(&[package], Some("connector")).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default()
            .module(&module)
            .unwrap()
            .encode()
            .unwrap()
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "\\{byte:02x}").unwrap();
    }
    text
}

/// Builds a component that is not made from the template.
pub(crate) fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}
