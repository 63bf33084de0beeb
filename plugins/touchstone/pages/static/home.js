// Airflow's home page shows this: what waits and runs, and whether somebody places it.
// Written for the React and Chakra that Airflow hands its plugins, so that it needs no build.
const { createElement: h, useEffect, useState } = globalThis.React;
const { Badge, Box, Flex, Heading, Link, Text } = globalThis.ChakraUI;

const SECONDS = 10;
// Airflow may live below a path of its own.
const find = (path) => new URL(path, document.baseURI).href;

function useSummary() {
  const [found, setFound] = useState({});
  useEffect(() => {
    let timer;
    let isOver = false;
    const ask = async () => {
      if (!document.hidden) {
        try {
          const answer = await fetch(find("touchstone/pages/home.json"));
          if (!answer.ok) throw new Error(answer.statusText);
          const summary = await answer.json();
          if (!isOver) setFound({ summary });
        } catch {
          // What was known stays on show, and says so.
          if (!isOver) setFound((known) => ({ ...known, isSilent: true }));
        }
      }
      if (!isOver) timer = setTimeout(ask, 1000 * SECONDS);
    };
    ask();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, []);
  return found;
}

function Figure({ name, value }) {
  return h(
    Box,
    null,
    h(Text, { fontSize: "xl", fontWeight: "semibold", lineHeight: "1.2" }, value),
    h(Text, { color: "fg.muted", fontSize: "sm" }, name),
  );
}

function Home() {
  const { summary, isSilent } = useSummary();
  if (!summary) return null;
  const { dispatcher } = summary;
  const figures = [
    ["trainings on servers", `${summary.running} of ${summary.slots}`],
    ["waiting", summary.waiting],
    ["of them yours", summary.own_waiting],
    ["servers alive", `${summary.servers_alive} of ${summary.servers}`],
  ];
  if (summary.balance_usd !== null) figures.push(["RunPod balance", `$${summary.balance_usd}`]);
  const trouble = isSilent ? "Touchstone does not answer" : dispatcher.warning;
  return h(
    Box,
    { as: "section", "aria-label": "Touchstone", borderWidth: "1px", borderRadius: "lg", p: 4, my: 2 },
    h(
      Flex,
      { justify: "space-between", align: "center", mb: 2, gap: 4, wrap: "wrap" },
      h(Heading, { as: "h2", size: "sm" }, h(Link, { href: find("plugin/touchstone") }, "Touchstone")),
      trouble
        ? h(Badge, { colorPalette: "orange", whiteSpace: "normal" }, trouble)
        : h(Badge, { colorPalette: "green" }, "placing"),
    ),
    h(
      Flex,
      { gap: 8, wrap: "wrap" },
      figures.map(([name, value]) => h(Figure, { key: name, name, value })),
    ),
  );
}

globalThis["Touchstone summary"] = Home;
