/**
 * Putting data on the page, as text only.
 *
 * 1. Nothing here parses markup: a name full of angle brackets is shown as it is.
 * 2. Rows live as long as what they show, so focus, selection and a pressed button survive a poll.
 * 3. The page is touched only where something changed, so nothing is read out twice.
 */

const COPIED_FOR_MS = 1600; // ms; long enough to be read, short enough to copy again

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * @template {HTMLElement} E
 * @param {HTMLElement} row
 * @param {string} selector
 * @returns {E}
 */
export function within(row, selector) {
  const element = row.querySelector(selector);
  if (!element) throw new Error(`the row has no ${selector}`);
  return /** @type {E} */ (element);
}

/**
 * @param {Element} element
 * @param {string} value
 */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {string} value
 */
export function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * @param {HTMLElement} element
 * @param {boolean} isShown
 */
export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/**
 * Make the children of `list` show `items`: rows are kept by key, made from the template when new.
 * @template T
 * @param {HTMLElement} list
 * @param {string} template
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(row: HTMLElement, item: T) => void} fill
 */
export function rows(list, template, items, keyOf, fill) {
  /** @type {Map<string, HTMLElement>} */
  const old = new Map();
  for (const row of /** @type {Iterable<HTMLElement>} */ (list.children)) {
    old.set(row.dataset.key ?? "", row);
  }
  items.forEach((item, at) => {
    const key = keyOf(item);
    const row = old.get(key) ?? made(template, key);
    old.delete(key);
    fill(row, item);
    if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
  });
  for (const row of old.values()) row.remove();
}

/**
 * @param {string} template
 * @param {string} key
 * @returns {HTMLElement}
 */
function made(template, key) {
  const source = /** @type {HTMLTemplateElement} */ (byId(template));
  const row = /** @type {HTMLElement} */ (
    /** @type {Element} */ (source.content.firstElementChild).cloneNode(true)
  );
  row.dataset.key = key;
  return row;
}

/**
 * A progress element in thousandths; without a number it shows that something is going on.
 * @param {HTMLElement} row
 * @param {number} done
 * @param {number} whole
 * @param {string} label
 */
export function progress(row, done, whole, label) {
  const element = /** @type {HTMLProgressElement} */ (within(row, "progress"));
  const value = whole > 0 ? Math.min(1000, Math.floor((1000 * done) / whole)) : 0;
  if (element.value !== value || !element.hasAttribute("value")) element.value = value;
  attribute(element, "aria-label", label);
}

/** Copy what a pressed `.copy` button stands for, and say so on the button. */
export function watchCopyButtons() {
  document.addEventListener("click", async (event) => {
    const target = /** @type {Element} */ (event.target);
    const button = /** @type {HTMLElement | null} */ (target.closest("button.copy"));
    if (!button || button.dataset.said !== undefined) return;
    const isCopied = await copied(button.dataset.copy ?? "");
    button.dataset.said = button.textContent ?? "";
    button.textContent = isCopied ? "Copied" : "Not allowed";
    setTimeout(() => {
      button.textContent = button.dataset.said ?? "";
      delete button.dataset.said;
    }, COPIED_FOR_MS);
  });
}

/**
 * The clipboard exists on loopback and https only; over plain http on a LAN the old way works.
 * @param {string} value
 * @returns {Promise<boolean>}
 */
async function copied(value) {
  try {
    await navigator.clipboard.writeText(value);
    return true;
  } catch {
    const holder = document.createElement("textarea");
    holder.className = "hidden-text";
    holder.value = value;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    document.body.append(holder);
    holder.select();
    const isDone = document.execCommand("copy");
    holder.remove();
    focused?.focus();
    return isDone;
  }
}
