// The little of React that web/examples needs: one component with state, a reference and an effect, drawn into elements that stay
// where their kind stays. It stands for react and react/jsx-runtime in examples_test.go; what React itself does is React's to test.
let now; // the mounted component that is being drawn

const kept = (make) => now.kept[now.next++] ?? (now.kept[now.next - 1] = make());

export function useState(first) {
  const mine = now;
  const cell = kept(() => {
    const cell = { value: first };
    cell.set = (value) => { cell.value = value; if (mine.part) queueMicrotask(() => draw(mine)); };
    return cell;
  });
  return [cell.value, cell.set];
}

export const useRef = (current) => kept(() => ({ current }));

export function useEffect(effect, inputs) {
  if (!inputs || inputs.length) throw new Error("only effects without inputs");
  const mine = now;
  kept(() => ({ effect: mine.effects.push(effect) }));
}

export const jsx = (kind, props) => ({ kind, props });
export const jsxs = jsx;

/** Mounts the component in the page's element; again with other props, or takes it away with none. */
export function mount(place, part, props) {
  const mine = place.mounted ??= { place, kept: [], effects: [], endings: [] };
  if (!props) {
    for (const end of mine.endings) end?.();
    mine.part = null;
    place.replaceChildren();
    return;
  }
  Object.assign(mine, { part, props });
  draw(mine);
}

function draw(mine) {
  if (!mine.part) return;
  Object.assign(mine, { next: 0 });
  now = mine;
  const tree = mine.part(mine.props);
  now = null;
  fill(mine.place, [tree]);
  mine.endings.push(...mine.effects.splice(0).map((effect) => effect()));
}

function fill(parent, children) {
  const wanted = children.flat().filter((child) => child !== null && child !== undefined && typeof child !== "boolean" && child !== "");
  wanted.forEach((child, i) => {
    const there = parent.childNodes[i];
    if (typeof child !== "object") {
      if (there?.nodeType !== 3) parent.insertBefore(document.createTextNode(""), there ?? null);
      parent.childNodes[i].data = String(child);
      return;
    }
    const node = there?.localName === child.kind ? there : document.createElement(child.kind);
    if (node !== there) there ? there.replaceWith(node) : parent.append(node);
    const { children: inside = [], ...props } = child.props;
    for (const [name, value] of Object.entries(props)) {
      if (name.startsWith("on")) node[name.toLowerCase()] = value;
      else if (typeof value === "boolean") node.toggleAttribute(name, value);
      else node.setAttribute(name, value);
    }
    fill(node, [inside]);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}
