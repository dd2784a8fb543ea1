import type { TranslationBundle } from '@jupyterlab/translation';
import {
  CommandToolbarButton,
  Toolbar,
  VDomRenderer
} from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ISandboxSettings } from '../commands';
import type { ISandboxModel, ISandboxStore } from '../tokens';

/**
 * What the sections of the sidebar work with.
 */
export interface IPanelContext {
  readonly commands: CommandRegistry;
  readonly store: ISandboxStore;
  readonly model: ISandboxModel;
  readonly trans: TranslationBundle;
  readonly settings: () => ISandboxSettings;
}

/**
 * A section of the sidebar with a toolbar in its title.
 */
export abstract class Section<
  M extends VDomRenderer.IModel
> extends VDomRenderer<M> {
  constructor(
    model: M,
    context: IPanelContext,
    options: { id: string; label: string }
  ) {
    super(model);
    this.context = context;
    this.id = `jp-vsandbox-${options.id}`;
    this.title.label = options.label;
    this.addClass('jp-VSandbox-section');
    this.toolbar.node.setAttribute('aria-label', options.label);
  }

  readonly toolbar = new Toolbar();

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    const { model } = this;
    super.dispose();
    model.dispose();
  }

  protected addTool(name: string, id: string): void {
    const { commands } = this.context;
    this.toolbar.addItem(
      name,
      new CommandToolbarButton({ commands, id, label: '' })
    );
  }

  protected readonly context: IPanelContext;
}
